"""Fits predator-prey equations to each context and solves them beyond it, as someone who suspects the equations would.

One form covers the three systems that are fitted, with prey x and predator y in units of their means over the context, and
time in steps:

    x'/x = r - b x - a y / (1 + u x)        y'/y = g x / (1 + u x) - m

In full these are Rosenzweig and MacArthur's (1963) equations; in the letters of `jaxlv.data.dynamics` b = r/K, u = a h and
g = e a. With u = 0 they are Lotka-Volterra with logistic prey, and with b = 0 as well, plain Lotka-Volterra (Lotka 1925,
Volterra 1926). Parameters are positive and fitted as logarithms, except b of the logistic form. A fitted b may be negative,
so that more prey grow faster. Then there is no capacity, but the form is nearest to cycles under saturated predators: on the
course's test series, 50 steps from 50, its MAE is .049, compared with .092 if b is kept positive.

The fit minimises the squares of the logarithms' residuals over the parameters and the populations at time 0, from one or
more starts. It uses Levenberg and Marquardt's method (Marquardt 1963, J. SIAM 11, 431-441) on growing windows of the
context, so that a phase that is wrong by a cycle does not trap it. The starts are regressions on the integrated equations,
which are linear in all parameters except u. The method is written out here, because the sums of its normal equations can
then be accumulated while the equations are solved, in one program for all systems and windows. That program compiles in a
fifth of the time that optimistix's solver takes.

Axes: N series, C context steps, H steps ahead, V variables (prey, predator), P parameters, Q unknowns (the parameters and
the logarithms of x and y at time 0), S starts, L lanes (each one start of one series), W windows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlv.errors import JaxlvError

PARAMETERS = ("r", "b", "a", "u", "g", "m")
ABSENT, SIGNED, POSITIVE = range(3)  # the parameter is 0, equal to its unknown, or the exponential of its unknown
P, V = len(PARAMETERS), 2
Q = P + V

SUBSTEPS = 3  # of the fixed-step solver, between two observations
WINDOWS = ((6, 25), (12, 25), (25, 25), (None, 100))  # (steps fitted, most iterations); None: all steps
PRIOR = 1e-5  # weight of (unknown - its start)^2 relative to (log residual)^2: as for .6 % of noise, and e^2 in a parameter
TOLERANCE = 1e-6  # a step that lowers the loss by a smaller share ends a window
STIFFEST = 1e8  # damping at which no step lowers the loss
STRIDE = 2.0  # the longest step in one unknown
OUTLIER = 10.0  # a log residual beyond this counts as this, and has no gradient
LOGS = (-30.0, 10.0)  # rates are computed at logarithms of populations (in units of their means) within this range
MOST = 700.0  # about the largest logarithm whose exponential is finite
UNKNOWNS = 20.0  # the largest absolute value of an unknown
DESCRIBED = 0.95  # a fit whose residuals exceed this share of the deviations from the mean describes nothing
HEADROOM = 4.0  # forecasts end this many ranges of the context above its highest value
SHORTEST = 4  # context steps: as many values as unknowns
LANES = 64  # fitted together: one shape needs one compilation, and a slow fit delays few others
PADDING = 128  # contexts are filled up to a multiple of this, for the same reason


@dataclass(frozen=True)
class Equations:
    """The PARAMETERS that are fitted, those that may be negative, and the saturation u that each start assumes."""

    parameters: tuple[str, ...]
    signed: tuple[str, ...] = ()
    saturations: tuple[float, ...] = (0.0,)

    @property
    def form_P(self) -> np.ndarray:
        """How each of PARAMETERS follows from its unknown: ABSENT, SIGNED or POSITIVE."""
        return np.array(
            [ABSENT if n not in self.parameters else SIGNED if n in self.signed else POSITIVE for n in PARAMETERS]
        )


EQUATIONS: Mapping[str, Equations] = MappingProxyType(
    {
        "lotka-volterra": Equations(("r", "a", "g", "m")),
        "lotka-volterra-logistic": Equations(("r", "b", "a", "g", "m"), signed=("b",)),
        "rosenzweig-macarthur": Equations(PARAMETERS, saturations=(0.15, 0.5, 1.5)),
    }
)
"""The equations by the names of `jaxlv.data.dynamics.SYSTEMS`."""


@dataclass(frozen=True)
class Fit:
    """The best fit of each series, in units of `unit_NV` and steps; `rms_N` is the root mean square log residual."""

    parameters_NP: np.ndarray
    logs_NV: np.ndarray  # logarithms of the populations at time 0
    unit_NV: np.ndarray
    rms_N: np.ndarray  # infinite if the fit failed from every start


def forecast(equations: Equations, context_NCV: np.ndarray, horizon: int) -> np.ndarray:
    """Returns forecasts (N, H, V) in the units of the context, never negative.

    If a fit leaves residuals nearly as large as the deviations of the logarithms from their mean, as it does for a constant
    or an alternation, the equations do not describe the series: its forecast is the mean of its context. Other forecasts are
    limited, variable by variable, to the highest value of the context plus four times its range. Zeros have no logarithm, so
    values are first raised to 1e-6 of the variable's mean; a variable that is zero throughout stays zero. Raises JaxlvError
    unless there are two variables and at least four steps, or if a value is negative.
    """
    context_NCV = np.asarray(context_NCV, np.float64)
    found = fit(equations, context_NCV)
    steps = context_NCV.shape[1]
    path_HVN = _solve(found.parameters_NP.T, found.logs_NV.T, steps + horizon)[steps:]
    high_N1V, low_N1V = context_NCV.max(axis=1, keepdims=True), context_NCV.min(axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        solved_NHV = np.moveaxis(np.exp(np.minimum(path_HVN, MOST)), -1, 0) * found.unit_NV[:, None]
    solved_NHV = np.minimum(solved_NHV, high_N1V + HEADROOM * (high_N1V - low_N1V))
    described_N = found.rms_N < DESCRIBED * np.sqrt(_logs(context_NCV)[0].var(axis=1).mean(axis=1))
    return np.where(described_N[:, None, None], solved_NHV, context_NCV.mean(axis=1, keepdims=True))


def fit(equations: Equations, context_NCV: np.ndarray) -> Fit:
    """Returns the best fit to each series over its starts; see `forecast` for zeros and errors."""
    context_NCV = np.asarray(context_NCV, np.float64)
    count, steps, variables = context_NCV.shape
    if variables != V:
        raise JaxlvError("the equations describe prey and predator", expected="2 variables", found=variables)
    if steps < SHORTEST:
        raise JaxlvError("context too short for a fit", expected=f"at least {SHORTEST} steps", found=steps)
    if (context_NCV < 0).any():
        raise JaxlvError("fits on logs need values of at least 0", found=f"{context_NCV.min():g}")
    logs_NCV, unit_NV = _logs(context_NCV)
    start_NSQ = starts(equations, logs_NCV)
    S = start_NSQ.shape[1]
    padded_CVN = np.zeros((-(-steps // PADDING) * PADDING, V, count))
    padded_CVN[:steps] = np.moveaxis(logs_NCV, 0, -1)

    # The last chunk is filled up with repeats: all have one shape, and the fit is compiled once.
    lanes = np.resize(np.arange(count * S), -(-count * S // LANES) * LANES).reshape(-1, LANES)
    window_W = np.array([min(window or steps, steps) for window, _ in WINDOWS])
    limit_W = np.array([limit for _, limit in WINDOWS])
    with jax.enable_x64(True), jax.default_device(_host()):
        chunks = [
            _fit(start_NSQ.reshape(-1, Q)[part].T, padded_CVN[..., part // S], equations.form_P, window_W, limit_W)
            for part in lanes
        ]
        point_LQ = np.concatenate([np.asarray(point_QL).T for point_QL, _ in chunks])[: count * S]
        loss_L = np.concatenate([np.asarray(loss_L) for _, loss_L in chunks])[: count * S]
    best_N = np.arange(count) * S + np.argmin(loss_L.reshape(count, S), axis=1)
    parameters_NP = _parameters(point_LQ[best_N, :P], equations.form_P, np)
    return Fit(parameters_NP, point_LQ[best_N, P:], unit_NV, np.sqrt(loss_L[best_N] / (V * steps)))


def starts(equations: Equations, logs_NCV: np.ndarray) -> np.ndarray:
    """Returns unknowns (N, S, Q) by regression on the equations integrated over a step, one start per saturation u.

    ln x[t+1] - ln x[t] = r - b <x> - a <y / (1 + u x)> with <> the trapezoidal mean over the step, and likewise for y:
    linear in all parameters except u. Parameters that must be positive are raised to at least .001.
    """
    x_NC, y_NC = np.exp(logs_NCV[..., 0]), np.exp(logs_NCV[..., 1])
    rates_NCV = np.diff(logs_NCV, axis=1)

    def mean(v_NC: np.ndarray) -> np.ndarray:
        return (v_NC[:, 1:] + v_NC[:, :-1]) / 2

    def regress(features: list[np.ndarray], target_NC: np.ndarray) -> np.ndarray:
        a_NCF = np.stack(features, axis=-1)
        gram_NFF = a_NCF.mT @ a_NCF + 1e-6 * np.eye(len(features))
        return np.linalg.solve(gram_NFF, a_NCF.mT @ target_NC[..., None])[..., 0].T

    one_NC = np.ones_like(rates_NCV[..., 0])
    found = []
    for u in equations.saturations:
        eaten_NC = 1 / (1 + u * x_NC)
        prey = [one_NC, -mean(y_NC * eaten_NC)] + ([-mean(x_NC)] if "b" in equations.parameters else [])
        r_N, a_N, *b_N = regress(prey, rates_NCV[..., 0])
        g_N, m_N = regress([mean(x_NC * eaten_NC), -one_NC], rates_NCV[..., 1])
        nothing_N = np.zeros_like(r_N)
        values_NP = np.stack([r_N, b_N[0] if b_N else nothing_N, a_N, nothing_N + u, g_N, m_N], axis=-1)
        unknowns_NP = np.where(equations.form_P == POSITIVE, np.log(np.maximum(values_NP, 1e-3)), values_NP)
        found.append(np.concatenate([unknowns_NP, logs_NCV[:, 0]], axis=-1))
    return np.clip(np.stack(found, axis=1), -UNKNOWNS, UNKNOWNS)


def _logs(context_NCV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logarithms in units of each variable's mean, and the units (N, V)."""
    unit_NV = context_NCV.mean(axis=1)
    scaled_NCV = context_NCV / np.where(unit_NV > 0, unit_NV, 1)[:, None]
    scaled_NCV = np.where((unit_NV > 0)[:, None], np.maximum(scaled_NCV, 1e-6), 1.0)
    return np.log(scaled_NCV), unit_NV


def _host() -> Any:
    """Returns the CPU if JAX has it, because a fit is a long loop of small steps in double precision."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def _parameters(unknowns_P: Any, form_P: Any, xp: Any) -> Any:
    return xp.where(form_P == POSITIVE, xp.exp(unknowns_P), xp.where(form_P == SIGNED, unknowns_P, 0.0))


def _rates(parameters_P: Any, logs_V: Any, xp: Any) -> Any:
    r, b, a, u, g, m = parameters_P
    x, y = xp.exp(xp.clip(logs_V, *LOGS))
    share = 1 / (1 + u * x)
    return xp.stack([r - b * x - a * y * share, g * x * share - m])


def _substep(parameters_P: Any, logs_V: Any, xp: Any) -> Any:
    """Takes the classical Runge-Kutta step of order four, of length 1 / SUBSTEPS."""
    h, rates = 1 / SUBSTEPS, functools.partial(_rates, parameters_P, xp=xp)
    k1 = rates(logs_V)
    k2 = rates(logs_V + h / 2 * k1)
    k3 = rates(logs_V + h / 2 * k2)
    k4 = rates(logs_V + h * k3)
    return logs_V + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _solve(parameters_PN: np.ndarray, logs_VN: np.ndarray, steps: int) -> np.ndarray:
    """Returns logarithms (steps, V, N) at times 0, 1, ...: in NumPy, as it takes milliseconds and any number of steps."""
    path = []
    for _ in range(steps):
        path.append(logs_VN)
        for _ in range(SUBSTEPS):
            logs_VN = _substep(parameters_PN, logs_VN, np)
    return np.stack(path)


class _Sums(NamedTuple):
    """J^T J and J^T residual of the loss, the loss, and the squared residuals, which are the loss without the prior."""

    gram_QQL: Any
    slope_QL: Any
    loss_L: Any
    squares_L: Any


class _Search(NamedTuple):
    """The best point so far with its sums, and the point to try next."""

    step: Any
    point_QL: Any
    trial_QL: Any
    sums: _Sums
    damping_L: Any
    done_L: Any


class _Carry(NamedTuple):
    """The state of the equations, its sensitivities, and the sums up to a step."""

    logs_VL: Any
    sense_QVL: Any
    gram_QQL: Any
    slope_QL: Any
    squares_L: Any


@jax.jit
def _fit(start_QL: Any, logs_CVL: Any, form_P: Any, window_W: Any, limit_W: Any) -> tuple[Any, Any]:
    """Returns unknowns (Q, L) and sums of squared residuals over the last window (L,), infinite if a fit failed."""

    def on_window(point_QL: Any, window_and_limit: tuple[Any, Any]) -> tuple[Any, Any]:
        window, limit = window_and_limit
        return _marquardt(
            lambda trial_QL: _normal_equations(trial_QL, start_QL, logs_CVL, form_P[:, None], window), point_QL, limit
        )

    point_QL, loss_WL = jax.lax.scan(on_window, start_QL, (window_W, limit_W))
    return point_QL, loss_WL[-1]


def _marquardt(equations: Callable[[Any], _Sums], start_QL: Any, limit: Any) -> tuple[Any, Any]:
    """Returns (unknowns, squared residuals) after at most `limit` trials of `equations(point)`; lanes stop by themselves."""
    L = start_QL.shape[1]

    def trial(state: _Search) -> _Search:
        step, point_QL, trial_QL, sums, damping_L, done_L = state
        new = equations(trial_QL)
        finite_L = jnp.isfinite(new.gram_QQL).all(axis=(0, 1)) & jnp.isfinite(new.slope_QL).all(axis=0)
        better_L = (new.loss_L < sums.loss_L) & finite_L & ~done_L
        little_L = sums.loss_L - new.loss_L <= TOLERANCE * new.loss_L + 1e-12
        point_QL = jnp.where(better_L, trial_QL, point_QL)
        sums = _Sums(*(jnp.where(better_L, a, b) for a, b in zip(new, sums, strict=True)))
        damping_L = jnp.where(better_L, damping_L / 5, damping_L * 4)
        done_L = done_L | (better_L & little_L) | (damping_L > STIFFEST)
        ridge_QL = damping_L * (jnp.diagonal(sums.gram_QQL).T + 1e-6)
        damped_QQL = sums.gram_QQL + jnp.eye(Q)[..., None] * ridge_QL
        move_QL = -jnp.linalg.solve(jnp.moveaxis(damped_QQL, -1, 0), sums.slope_QL.T[..., None])[..., 0].T
        next_QL = jnp.clip(point_QL + jnp.clip(move_QL, -STRIDE, STRIDE), -UNKNOWNS, UNKNOWNS)
        return _Search(step + 1, point_QL, next_QL, sums, damping_L, done_L)

    never_L = jnp.full(L, jnp.inf)
    nothing = _Sums(jnp.zeros((Q, Q, L)), jnp.zeros((Q, L)), never_L, never_L)
    state = _Search(0, start_QL, start_QL, nothing, jnp.full(L, 0.05), jnp.zeros(L, bool))
    state = jax.lax.while_loop(lambda state: (state.step < limit) & ~state.done_L.all(), trial, state)
    return state.point_QL, state.sums.squares_L


def _normal_equations(point_QL: Any, start_QL: Any, logs_CVL: Any, form_P1: Any, window: Any) -> _Sums:
    """Returns the sums over the first `window` steps, formed while the equations are solved.

    The sensitivities (Q, V, L) of the state to the unknowns are carried along by forward differentiation of each step.
    """
    L = point_QL.shape[1]
    unit_QQ = jnp.eye(Q)
    value_PL = _parameters(point_QL[:P], form_P1, jnp)
    slope_QPL = unit_QQ[:, :P, None] * jnp.where(form_P1 == SIGNED, 1.0, value_PL)

    def observe(step: Any, carry: _Carry) -> _Carry:
        logs_VL, sense_QVL, gram_QQL, slope_QL, squares_L = carry
        error_VL = jnp.clip(logs_VL - logs_CVL[step], -OUTLIER, OUTLIER)
        jacobian_QVL = jnp.where(jnp.abs(error_VL) < OUTLIER, sense_QVL, 0.0)
        gram_QQL += (jacobian_QVL[:, None] * jacobian_QVL).sum(axis=2)
        slope_QL += (jacobian_QVL * error_VL).sum(axis=1)
        squares_L += (error_VL**2).sum(axis=0)

        def substep(_: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
            def along(parameters_PL: Any, sense_VL: Any) -> tuple[Any, Any]:
                return jax.jvp(lambda p, s: _substep(p, s, jnp), (value_PL, state[0]), (parameters_PL, sense_VL))

            return jax.vmap(along, out_axes=(None, 0))(slope_QPL, state[1])

        logs_VL, sense_QVL = jax.lax.fori_loop(0, SUBSTEPS, substep, (logs_VL, sense_QVL))
        return _Carry(logs_VL, sense_QVL, gram_QQL, slope_QL, squares_L)

    first = point_QL[P:], jnp.broadcast_to(unit_QQ[:, P:, None], (Q, V, L))
    sums = jnp.zeros((Q, Q, L)), jnp.zeros((Q, L)), jnp.zeros(L)
    *_, gram_QQL, slope_QL, squares_L = jax.lax.fori_loop(0, window, observe, _Carry(*first, *sums))
    prior_QQ = PRIOR * jnp.diag(jnp.arange(Q) < P).astype(gram_QQL.dtype)
    away_QL = point_QL - start_QL
    pull_QL = prior_QQ @ away_QL
    loss_L = squares_L + (away_QL * pull_QL).sum(axis=0)
    return _Sums(gram_QQL + prior_QQ[..., None], slope_QL + pull_QL, loss_L, squares_L)
