"""Simulated predator-prey series: six systems, an explicit solver, and presets that say what is drawn.

Axes: N series, T time steps, V variables (prey x, predator y), P parameters.

All systems have Kolmogorov's form x' = x f(x, y), y' = y g(x, y) and are solved for (ln x, ln y), whose derivatives are (f,
g): so populations stay positive, and the solver's tolerances are relative.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlv import memory
from jaxlv.config import DataConfig
from jaxlv.data.series import VARIABLES, SeriesSet, from_arrays
from jaxlv.errors import JaxlvError
from jaxlv.settings import AXIS, Between, argument, checked, setting

CHUNKS = {"cpu": 256, "gpu": 16_384}  # series solved at once, by the kind of device


@dataclass(frozen=True)
class System:
    """A vector field as growth rates: `rates(p, x, y)` gives (x'/x, y'/y) for a dict p of the parameters."""

    name: str
    equations: str
    parameters: tuple[str, ...]
    rates: Callable[[Mapping[str, Any], Any, Any], tuple[Any, Any]]


def _lotka_volterra(p: Mapping[str, Any], x: Any, y: Any) -> tuple[Any, Any]:
    """Returns the rates of Lotka (1925), Elements of Physical Biology, and Volterra (1926), Nature 118, 558-560."""
    return p["r"] - p["a"] * y, p["e"] * p["a"] * x - p["m"]


def _lotka_volterra_logistic(p: Mapping[str, Any], x: Any, y: Any) -> tuple[Any, Any]:
    """Returns the rates of Lotka-Volterra with Verhulst's logistic growth of the prey, of capacity K (Volterra 1931)."""
    return p["r"] * (1 - x / p["K"]) - p["a"] * y, p["e"] * p["a"] * x - p["m"]


def _rosenzweig_macarthur(p: Mapping[str, Any], x: Any, y: Any) -> tuple[Any, Any]:
    """Returns the rates of Rosenzweig and MacArthur (1963), The American Naturalist 97: Holling's type II response."""
    eaten = p["a"] / (1 + p["a"] * p["h"] * x)
    return p["r"] * (1 - x / p["K"]) - eaten * y, p["e"] * eaten * x - p["m"]


def _holling_iii(p: Mapping[str, Any], x: Any, y: Any) -> tuple[Any, Any]:
    """Returns the rates of logistic prey under Holling's (1959) type III response: rare prey is hardly found."""
    eaten = p["a"] * x / (1 + p["a"] * p["h"] * x**2)
    return p["r"] * (1 - x / p["K"]) - eaten * y, p["e"] * eaten * x - p["m"]


def _leslie_gower(p: Mapping[str, Any], x: Any, y: Any) -> tuple[Any, Any]:
    """Returns the rates of May (1973), Stability and Complexity in Model Ecosystems: predators up to a capacity of q x."""
    eaten = p["a"] / (1 + p["a"] * p["h"] * x)
    return p["r"] * (1 - x / p["K"]) - eaten * y, p["s"] * (1 - y / (p["q"] * x))


def _van_der_pol(p: Mapping[str, Any], x: Any, y: Any) -> tuple[Any, Any]:
    """Returns the rates of Van der Pol's (1926) oscillator of frequency w in u = ln x and v = ln y: a cycle, no predator."""
    u, v = jnp.log(x), jnp.log(y)
    return p["w"] * v, p["w"] * (p["mu"] * (1 - u**2) * v - u)


SYSTEMS: Mapping[str, System] = MappingProxyType(
    {
        system.name: system
        for system in (
            System(
                "lotka-volterra",
                "x' = r x - a x y; y' = e a x y - m y",
                ("r", "a", "e", "m"),
                _lotka_volterra,
            ),
            System(
                "lotka-volterra-logistic",
                "x' = r x (1 - x/K) - a x y; y' = e a x y - m y",
                ("r", "K", "a", "e", "m"),
                _lotka_volterra_logistic,
            ),
            System(
                "rosenzweig-macarthur",
                "x' = r x (1 - x/K) - a x y / (1 + a h x); y' = e a x y / (1 + a h x) - m y",
                ("r", "K", "a", "h", "e", "m"),
                _rosenzweig_macarthur,
            ),
            System(
                "holling-iii",
                "x' = r x (1 - x/K) - a x^2 y / (1 + a h x^2); y' = e a x^2 y / (1 + a h x^2) - m y",
                ("r", "K", "a", "h", "e", "m"),
                _holling_iii,
            ),
            System(
                "leslie-gower",
                "x' = r x (1 - x/K) - a x y / (1 + a h x); y' = s y (1 - y / (q x))",
                ("r", "K", "a", "h", "s", "q"),
                _leslie_gower,
            ),
            System(
                "van-der-pol",
                "u = ln x, v = ln y: u' = w v; v' = w (mu (1 - u^2) v - u)",
                ("w", "mu"),
                _van_der_pol,
            ),
        )
    }
)
"""By name. r prey growth, K capacity, a attack rate, h handling time, e conversion, m predator mortality, s predator growth,
q predators that one prey carries, w frequency, mu stiffness.
"""


@dataclass(frozen=True)
class Solver:
    """The class name of a solver in diffrax, its tolerances on the logarithms, and the most steps per series."""

    method: str = "Dopri8"
    rtol: float = 1e-8
    atol: float = 1e-8
    max_steps: int = 10_000


def simulate(
    system: System,
    parameters_NP: np.ndarray,
    initial_NV: np.ndarray,
    time_T: np.ndarray,
    solver: Solver | None = None,
    chunk: int | None = None,
) -> np.ndarray:
    """Returns the solutions (N, T, V) in float64 at the given times; NaN throughout a series on which the solver gave up.

    Parameters are in the order of `system.parameters`; initial populations are those at time_T[0]. Series are solved `chunk`
    at a time, by default as many as suit the device. Raises JaxlvError if shapes are wrong, populations are not positive,
    times do not increase, or the solver is unknown.
    """
    solver = solver or Solver()
    parameters_NP, initial_NV = np.asarray(parameters_NP, float), np.asarray(initial_NV, float)
    count = len(parameters_NP)
    expected = (count, len(system.parameters)), (count, len(VARIABLES))
    if count < 1 or (parameters_NP.shape, initial_NV.shape) != expected:
        raise JaxlvError(
            f"wrong shapes for {system.name}",
            expected=f"parameters and initial populations of shape {expected[0]} and {expected[1]}",
            found=f"{parameters_NP.shape} and {initial_NV.shape}",
        )
    if not (initial_NV > 0).all():
        raise JaxlvError("initial populations must be positive", found=initial_NV.min())
    if len(time_T) < 2 or not (np.diff(time_T) > 0).all():
        raise JaxlvError("times to simulate do not increase", found=f"{len(time_T)} times")
    import diffrax  # here and below, as it takes a third of a second

    if not issubclass(getattr(diffrax, solver.method, object), diffrax.AbstractAdaptiveSolver):
        raise JaxlvError("unknown solver", expected="an adaptive solver of diffrax", found=solver.method)
    chunk = chunk or CHUNKS.get(jax.default_backend(), CHUNKS["cpu"])
    # The last chunk is filled up with repeats, so that all have one shape and the solver is compiled once.
    rows = np.resize(np.arange(count), -(-count // chunk) * chunk)
    with jax.enable_x64(True):
        chunks = [
            _solve(system, solver, parameters_NP[part], np.log(initial_NV[part]), np.asarray(time_T, float))
            for part in rows.reshape(-1, chunk)
        ]
        return np.concatenate([np.asarray(values) for values in chunks])[:count]


@functools.partial(jax.jit, static_argnames=("system", "solver"))
def _solve(system: System, solver: Solver, parameters_NP: Any, logs_NV: Any, time_T: Any) -> Any:
    import diffrax

    def field(t: Any, log_V: Any, parameters_P: Any) -> Any:
        p = dict(zip(system.parameters, parameters_P, strict=True))
        return jnp.stack(system.rates(p, jnp.exp(log_V[0]), jnp.exp(log_V[1])))

    def solve_one(parameters_P: Any, log_V: Any) -> Any:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            getattr(diffrax, solver.method)(),
            time_T[0],
            time_T[-1],
            None,
            log_V,
            parameters_P,
            saveat=diffrax.SaveAt(ts=time_T),
            stepsize_controller=diffrax.PIDController(rtol=solver.rtol, atol=solver.atol),
            adjoint=diffrax.ForwardMode(),
            max_steps=solver.max_steps,
            throw=False,
        )
        solved = solution.result == diffrax.RESULTS.successful
        return jnp.where(solved, jnp.exp(solution.ys), jnp.nan)

    return jax.vmap(solve_one)(parameters_NP, logs_NV)


@dataclass(frozen=True)
class Range:
    """The range in which a parameter is drawn: uniformly between two bounds, or uniformly in its logarithm.

    If `peaked`, it is the mean of two such draws, so that the middle of the range is more frequent than its ends.
    """

    low: float
    high: float
    log: bool = False
    peaked: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and 0 < self.low <= self.high):
            raise JaxlvError("wrong range", expected="0 < low <= high", found=f"{self.low} to {self.high}")

    def draw(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Returns `count` drawn values (N,)."""
        low, high = (np.log(self.low), np.log(self.high)) if self.log else (self.low, self.high)
        values_N = random.uniform(low, high, count)
        if self.peaked:
            values_N = (values_N + random.uniform(low, high, count)) / 2
        return np.exp(values_N) if self.log else values_N


@dataclass(frozen=True)
class Preset:
    """What to simulate: a system, ranges of its parameters and of x0 and y0, a time grid, and noise.

    With `noise` s > 0 each value is observed as x exp(s z), z standard normal: log-normal noise of median 1. Raises
    JaxlvError if the ranges are not those of the system's parameters.
    """

    name: str
    system: str
    ranges: Mapping[str, Range]
    stop: float = setting(200.0, "last time", Between(0, 1e9, above=True))
    steps: int = setting(100, "time steps per series", Between(2, AXIS))
    noise: float = setting(0.0, "standard deviation of log-normal observation noise", Between(0, 100))

    def __post_init__(self) -> None:
        if self.system not in SYSTEMS:
            raise JaxlvError("unknown system", where=self.name, expected=", ".join(SYSTEMS), found=self.system)
        expected = (*SYSTEMS[self.system].parameters, "x0", "y0")
        if set(self.ranges) != set(expected):
            raise JaxlvError(
                f"wrong ranges for {self.system}",
                where=self.name,
                expected=", ".join(expected),
                found=", ".join(self.ranges),
            )
        for name, value in checked(Preset, self.name, steps=self.steps, stop=self.stop, noise=self.noise).items():
            object.__setattr__(self, name, value)

    @property
    def time_T(self) -> np.ndarray:
        """Times from 0 to `stop`, as many as `steps`."""
        return np.linspace(0.0, self.stop, self.steps)


# Fits to 36 series of the course's file gave r .10-.32, K 3.8-13.7, a .20-.50, h .18-.71, e .32-.70 and m .10-.30. The
# bounds here are round numbers if those are close, otherwise the extremes seen. If parameters are drawn independently, 17 %
# of the series reach rest within 200 time units, compared with 8 % in the file; means and deviations agree.
_COURSE = {
    "r": Range(0.1, 0.3),
    "K": Range(3.8, 13.7),
    "a": Range(0.2, 0.5),
    "h": Range(0.18, 0.71),
    "e": Range(0.3, 0.7),
    "m": Range(0.1, 0.3),
    "x0": Range(0.8, 1.2),
    "y0": Range(0.8, 1.2),
}

# One pair of species in many places: their rates differ by 2 % at most, but where the series begin on the cycle differs
# widely. The counts are twice as noisy as the noisiest series that the embedded base has read.
_FIELD = {
    "r": Range(0.245, 0.255),
    "K": Range(11.8, 12.2),
    "a": Range(0.343, 0.357),
    "h": Range(0.392, 0.408),
    "e": Range(0.49, 0.51),
    "m": Range(0.196, 0.204),
    "x0": Range(0.7, 3.0, log=True),
    "y0": Range(0.4, 1.4, log=True),
}

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset("course", "rosenzweig-macarthur", _COURSE),
            Preset("field", "rosenzweig-macarthur", _FIELD, stop=78.0, steps=40, noise=0.2),
            Preset(
                "lotka-volterra-logistic",
                "lotka-volterra-logistic",
                {name: _COURSE[name] for name in ("r", "K", "a", "e", "m", "x0", "y0")},
            ),
            Preset(
                "lotka-volterra",
                "lotka-volterra",
                {name: _COURSE[name] for name in ("r", "a", "e", "m", "x0", "y0")},
            ),
        )
    }
)
"""The presets by name."""


def changed(preset: str, **changes: Any) -> Preset:
    """Returns the preset of that name with what is not None changed; raises JaxlvError if there is no such preset."""
    if preset not in PRESETS:
        raise JaxlvError("unknown preset", expected=", ".join(PRESETS), found=preset)
    return replace(PRESETS[preset], **{name: value for name, value in changes.items() if value is not None})


def draw(preset: Preset | str, n: int, seed: int, solver: Solver | None = None, attempts: int = 10) -> SeriesSet:
    """Returns `n` simulated series with their parameters, preset, solver and seed in `source["simulation"]`.

    Values are rounded to float32, as `series.save` stores them; the same arguments give the same series. A draw is repeated
    if the solver gave up or a value is not a normal positive float32; "redrawn" counts these. Raises JaxlvError if the
    preset is unknown, the number or the seed is not allowed, the series do not fit in memory, or draws failed `attempts`
    times.
    """
    preset = changed(preset) if isinstance(preset, str) else preset
    n, seed = argument(DataConfig, "simulate", n, "n"), argument(DataConfig, "seed", seed, "seed")
    system, solver = SYSTEMS[preset.system], solver or Solver()
    numbers = 3 * preset.steps * len(VARIABLES) + 2 * len(system.parameters)  # of 4 bytes each; solved values take 8
    memory.check("simulation", host={"lower the series or their steps": 4 * n * numbers})
    random = np.random.default_rng(seed)
    values_NTV = np.empty((n, preset.steps, len(VARIABLES)), np.float32)
    parameters = {name: np.empty(n) for name in (*system.parameters, "x0", "y0")}
    left, redrawn = np.arange(n), 0
    for _ in range(attempts):
        drawn = {name: preset.ranges[name].draw(random, len(left)) for name in parameters}
        solved_NTV = simulate(
            system,
            np.stack([drawn[name] for name in system.parameters], axis=1),
            np.stack([drawn["x0"], drawn["y0"]], axis=1),
            preset.time_T,
            solver,
        )
        if preset.noise:
            solved_NTV *= np.exp(preset.noise * random.standard_normal(solved_NTV.shape))
        limits = np.finfo(np.float32)
        fine_N = ((solved_NTV >= limits.tiny) & (solved_NTV <= limits.max)).all(axis=(1, 2))
        values_NTV[left[fine_N]] = solved_NTV[fine_N]
        for name, values_N in drawn.items():
            parameters[name][left[fine_N]] = values_N[fine_N]
        left = left[~fine_N]
        if not len(left):
            break
        redrawn += len(left)
    else:
        raise JaxlvError(
            f"{len(left)} of {n} series could not be simulated in {attempts} attempts",
            where=preset.name,
            hint="narrow the ranges, shorten the time or raise the solver's max_steps",
        )
    source = {"simulation": _record(preset, solver, seed, redrawn, parameters)}
    return from_arrays(values_NTV, preset.time_T, source=source, where=preset.name)


def _record(preset: Preset, solver: Solver, seed: int, redrawn: int, parameters: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns everything needed to draw these series again, as values that HDF5 attributes can hold."""
    return {
        "preset": preset.name,
        "system": preset.system,
        "equations": SYSTEMS[preset.system].equations,
        "ranges": json.dumps({name: asdict(limits) for name, limits in preset.ranges.items()}),
        "noise": preset.noise,
        "seed": seed,
        "redrawn": redrawn,
        **{f"solver_{name}": value for name, value in asdict(solver).items()},
        "diffrax": metadata.version("diffrax"),
        "jax": jax.__version__,
        "parameters": parameters,
    }
