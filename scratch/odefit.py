"""Differential equations fitted to a context and solved beyond it: what a physicist would forecast with.

The three systems of `jaxlv.dynamics`, in logarithms, by least squares. Axes: N series, C context steps, H steps ahead,
V variables (prey, predator), P parameters, S starts.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix

from jaxlv.dynamics import SYSTEMS, System

SUBSTEPS = 6  # of the fixed-step solver, between two observations
WINDOWS = (6, 12, 25)  # steps fitted first; the whole context comes last
SATURATIONS = (0.15, 0.5, 1.5)  # a h x of the starts, at the mean prey
PRIOR = 1e-3  # weight of (log parameter - its start)^2 beside (log residual)^2
LIMIT = 25.0


def starts(system: System, logs_NCV: np.ndarray) -> np.ndarray:
    """Log parameters (N, S, P) by regression on the integral form, one start per saturation of the response.

    ln x[t+1] - ln x[t] = r - (r/K) <x> - a <y / (1 + a h x)> with <> the trapezoidal mean over the step, and likewise for y:
    linear in all parameters but a h.
    """
    x_NC, y_NC = np.exp(logs_NCV[..., 0]), np.exp(logs_NCV[..., 1])
    rates_NCV = np.diff(logs_NCV, axis=1)

    def mean(v_NC: np.ndarray) -> np.ndarray:
        return (v_NC[:, 1:] + v_NC[:, :-1]) / 2

    def regress(features: list[np.ndarray], target_NC: np.ndarray) -> np.ndarray:
        a_NCF = np.stack(features, axis=-1)
        gram = a_NCF.mT @ a_NCF + 1e-6 * np.eye(len(features))
        return np.maximum(np.linalg.solve(gram, (a_NCF.mT @ target_NC[..., None]))[..., 0], 1e-3)

    one = np.ones_like(rates_NCV[..., 0])
    found = []
    for u in SATURATIONS if "h" in system.parameters else (0.0,):
        eaten = 1 / (1 + u * x_NC)
        prey = [one, -mean(y_NC * eaten)] + ([-mean(x_NC)] if "K" in system.parameters else [])
        r, a, *k = regress(prey, rates_NCV[..., 0]).T
        gain, m = regress([mean(x_NC * eaten), -one], rates_NCV[..., 1]).T
        values: dict[str, Any] = {"r": r, "a": a, "e": gain / a, "m": m, "h": u / a}
        if k:
            values["K"] = r / k[0]
        found.append(np.log(np.stack([values[name] for name in system.parameters], axis=-1)))
    return np.stack(found, axis=1)


def solve(system: System, log_P: Any, log_V: Any, steps: int) -> Any:
    """Logarithms (steps, V) at the times 0, 1, ..., from their values at 0."""

    def field(_: Any, state_V: Any, log_P: Any) -> Any:
        p = dict(zip(system.parameters, jnp.exp(log_P), strict=True))
        state_V = jnp.clip(state_V, -LIMIT, LIMIT / 2)
        return jnp.stack(system.rates(p, jnp.exp(state_V[0]), jnp.exp(state_V[1])))

    def substep(state_V: Any, _: Any) -> Any:
        h = 1 / SUBSTEPS
        k1 = field(0, state_V, log_P)
        k2 = field(0, state_V + h / 2 * k1, log_P)
        k3 = field(0, state_V + h / 2 * k2, log_P)
        k4 = field(0, state_V + h * k3, log_P)
        return state_V + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    def step(state_V: Any, _: Any) -> Any:
        return jax.lax.scan(substep, state_V, None, length=SUBSTEPS)[0], state_V

    return jax.lax.scan(step, log_V, None, length=steps)[1]


@functools.partial(jax.jit, static_argnames=("system",))
def _fit(system: System, start_P: Any, logs_CV: Any) -> tuple[Any, Any, Any]:
    """(log parameters, logs at time 0, loss) from one start."""
    C = len(logs_CV)
    prior_P = start_P

    def residual(point: Any, weight_C1: Any) -> Any:
        log_P, log_V = point
        error_CV = (solve(system, log_P, log_V, C) - logs_CV) * weight_C1
        return jnp.clip(error_CV, -10, 10), jnp.sqrt(PRIOR) * (log_P - prior_P)

    point = start_P, logs_CV[0]
    for window in (*(w for w in WINDOWS if w < C), C):
        weight = (jnp.arange(C) < window)[:, None].astype(logs_CV.dtype)
        solver = optimistix.LevenbergMarquardt(rtol=1e-6, atol=1e-8)
        point = optimistix.least_squares(
            residual, solver, point, weight, options={"jac": "fwd"}, max_steps=25 if window < C else 100, throw=False
        ).value
    a, b = residual(point, jnp.ones((C, 1)))
    return *point, (a**2).sum() + (b**2).sum()


def forecast(system: System, context_NCV: np.ndarray, horizon: int):
    logs_NCV = np.log(context_NCV)
    unit = logs_NCV.mean(axis=1, keepdims=True)
    unit = np.log(context_NCV.mean(axis=1, keepdims=True))
    with jax.enable_x64(True):
        scaled = logs_NCV - unit
        start = starts(system, scaled)
        N, S, P = start.shape
        fit = jax.jit(jax.vmap(jax.vmap(functools.partial(_fit, system), (0, None)), (0, 0)))
        logp, logv, loss = fit(jnp.asarray(start), jnp.asarray(scaled))
        best = np.argmin(np.where(np.isfinite(loss), loss, np.inf), axis=1)
        rows = np.arange(N)
        path = jax.jit(jax.vmap(lambda p, v: solve(system, p, v, context_NCV.shape[1] + horizon)))(
            logp[rows, best], logv[rows, best]
        )
        return np.exp(np.asarray(path)[:, -horizon:] + unit), np.asarray(loss)


if __name__ == "__main__":
    import sys
    import time
    from pathlib import Path

    from jaxlv import series

    data = series.load(Path("../shared/data/lotka_volterra_data.h5"))
    ids = np.random.RandomState(42).permutation(1000)[850:][: int(sys.argv[2])]
    v = data.select(ids.tolist()).values_NTV.astype(float)
    for name in sys.argv[1].split(","):
        t = time.time()
        f, loss = forecast(SYSTEMS[name], v[:, :50], 50)
        e = np.abs(f - v[:, 50:]).mean((1, 2))
        print(
            name,
            "MAE",
            e.mean(),
            "median",
            np.median(e),
            "first5",
            np.abs(f - v[:, 50:])[:, :5].mean(),
            "max",
            e.max(),
            "s",
            time.time() - t,
            "mse",
            ((f - v[:, 50:]) ** 2).mean(),
        )
        print(np.sort(loss.min(1))[-8:], ids[np.argsort(e)[-5:]], np.sort(e)[-5:])
