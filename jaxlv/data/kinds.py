"""Kinds of series that the embedded base reads besides the systems of `dynamics`: one to four species, maps, food chains and
webs, competition, seasons, epidemics, and autoregressions, all with process noise; and kinds that are kept for validation.

Axes: N series, T steps, V variables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from jaxlv.errors import JaxlvError

SUBSTEPS = 8  # of Runge and Kutta's fourth order in a unit of time
SWITCHED = 0.1  # share of the series of maps whose parameters change once
REST = 0.01  # standard deviation by mean of a series at rest
LARGEST_LOG = 30.0  # of a population: beyond, a series is left out
Parameters = Mapping[str, np.ndarray]  # by name, (N, 1) each


@dataclass(frozen=True)
class Kind:
    """A kind of series: `change(p, past, t)` gives ln x(t + 1) - ln x(t) of a map, or d ln x / dt, (N, V).

    `past` has the `lags` last states, (N, V) each, the newest first; `ranges` are drawn uniformly in the logarithm. `noise`
    is the greatest standard deviation of ln x that chance adds per step or unit of time, and `noisy` the share of series
    that have any. If `flows`, time is continuous.
    """

    name: str
    variables: int
    ranges: Mapping[str, tuple[float, float]]
    change: Callable[[Parameters, list[np.ndarray], float], np.ndarray]
    lags: int = 1
    flows: bool = False
    noise: float = 0.4
    noisy: float = 0.6
    start: tuple[float, float] = (0.3, 1.5)

    def draw(self, number: int, steps: int, random: np.random.Generator, burn: int = 0) -> np.ndarray:
        """Returns (N, T, V) of at most `number` series: those that stay finite, without the first `burn` steps."""
        here, there = self._parameters(number, random), self._parameters(number, random)
        switches = random.random((number, 1)) < (0.0 if self.flows else SWITCHED)
        at = np.where(switches, random.integers(burn, burn + steps, (number, 1)), burn + steps)
        spread = self.noise * random.random((number, 1)) ** 1.5 * (random.random((number, 1)) < self.noisy)
        low, high = np.log(self.start)
        logs_NV = random.uniform(low, high, (number, self.variables))
        past, found = [np.exp(logs_NV)] * self.lags, []
        with np.errstate(all="ignore"):
            for t in range(burn + steps):
                p = {name: np.where(t < at, here[name], there[name]) for name in here}
                logs_NV = self._advanced(p, logs_NV, past, t) + spread * random.standard_normal(logs_NV.shape)
                past = [np.exp(logs_NV), *past[:-1]]
                if t >= burn:
                    found.append(past[0])
        values_NTV = np.stack(found, axis=1)
        return values_NTV[(np.abs(np.log(np.maximum(values_NTV, 1e-300))) < LARGEST_LOG).all(axis=(1, 2))]

    def _parameters(self, number: int, random: np.random.Generator) -> dict[str, np.ndarray]:
        return {
            name: np.exp(random.uniform(math.log(low), math.log(high), (number, 1)))
            for name, (low, high) in self.ranges.items()
        }

    def _advanced(self, p: Parameters, logs_NV: np.ndarray, past: list[np.ndarray], t: int) -> np.ndarray:
        if not self.flows:
            return logs_NV + self.change(p, past, float(t))
        h = 1.0 / SUBSTEPS
        for i in range(SUBSTEPS):
            now = t + i * h
            k1 = self.change(p, [np.exp(logs_NV)], now)
            k2 = self.change(p, [np.exp(logs_NV + h / 2 * k1)], now + h / 2)
            k3 = self.change(p, [np.exp(logs_NV + h / 2 * k2)], now + h / 2)
            k4 = self.change(p, [np.exp(logs_NV + h * k3)], now + h)
            logs_NV = logs_NV + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return logs_NV


def _columns(*columns: np.ndarray) -> np.ndarray:
    return np.concatenate(np.broadcast_arrays(*columns), axis=1)


def _split(past_NV: np.ndarray) -> list[np.ndarray]:
    return [past_NV[:, v : v + 1] for v in range(past_NV.shape[1])]


# ------------------------------------------------------------------------------------------- one species


def _ricker(p, past, t):
    """Ricker (1954), J. Fish. Res. Board Can. 11, 559-623."""
    return p["r"] * (1 - past[0])


def _hassell(p, past, t):
    """Hassell (1975), J. Animal Ecology 44, 283-295, with a capacity of 1."""
    return np.log(p["g"]) - p["b"] * np.log1p((p["g"] ** (1 / p["b"]) - 1) * past[0])


def _delayed(lag):
    hopf = 2 * np.cos(lag * np.pi / (2 * lag + 1))

    def change(p, past, t):
        """Ricker's map with a lag (May 1981, Theoretical Ecology, ch. 2); at rest until f = 1, a cycle beyond."""
        return hopf * p["f"] * (1 - past[lag])

    return change


def _harmonic(p, past, t):
    """A cycle of fixed period and two harmonics, to which a population returns at a rate."""
    wave = 2 * np.pi * (t / p["period"])
    wanted = p["size"] * (np.sin(wave) + p["second"] * np.sin(2 * wave + p["phase"]))
    return p["back"] * (wanted - np.log(past[0]))


def _drifting(p, past, t):
    """A random walk that is weakly held at 1, with a drift."""
    return p["drift"] - p["drift2"] - p["back"] * np.log(past[0])


def _second_order(p, past, t):
    """Density dependence of the second order on logarithms (Royama 1992, Analytical Population Dynamics): quasi-cycles."""
    first, second = 2 * p["modulus"] * np.cos(2 * np.pi / p["period"]), -(p["modulus"] ** 2)
    return (first - 1) * np.log(past[0]) + second * np.log(past[1])


def _slatkin(p, past, t):
    """Maynard Smith and Slatkin (1973), Ecology 54, 384-391."""
    return np.log(p["g"]) - np.log1p((p["g"] - 1) * past[0] ** p["b"])


def _blowflies(p, past, t):
    """Nicholson's blowflies in discrete time (Gurney, Blythe and Nisbet 1980, Nature 287, 17-21), with a lag of 4."""
    return np.log(1 - p["d"] + p["d"] * np.exp(p["c"]) * past[4] * np.exp(-p["c"] * past[4]) / past[0])


# ------------------------------------------------------------------------------------------- two species


def _parasitoids(p, past, t):
    """Hosts with a capacity and parasitoids (Beddington, Free and Lawton 1975, Nature 255, 58-60)."""
    x, y = _split(past[0])
    return _columns(p["r"] * (1 - x) - p["a"] * y, np.log(p["c"] * x * -np.expm1(-p["a"] * y) / y))


def _negative_binomial(p, past, t):
    """Parasitoids that search some places more (May 1978, J. Animal Ecology 47, 833-843), hosts with a capacity."""
    x, y = _split(past[0])
    escape = (1 + p["a"] * y / p["k"]) ** -p["k"]
    return _columns(p["r"] * (1 - x) + np.log(escape), np.log(p["c"] * x * (1 - escape) / y))


def _rosenzweig(p, past, t):
    """Rosenzweig and MacArthur (1963) in units of the capacity, with a season."""
    x, y = _split(past[0])
    r = p["r"] * (1 + p["season"] * np.sin(2 * np.pi * t / p["period"]))
    eaten = p["a"] / (1 + p["a"] * p["h"] * x)
    return _columns(r * (1 - x) - eaten * y, p["e"] * eaten * x - p["m"])


def _deangelis(p, past, t):
    """Predators that interfere (Beddington 1975; DeAngelis, Goldstein and O'Neill 1975, Ecology 56, 881-892)."""
    x, y = _split(past[0])
    eaten = p["a"] / (1 + p["a"] * p["h"] * x + p["i"] * y)
    return _columns(p["r"] * (1 - x) - eaten * y, p["e"] * eaten * x - p["m"])


def _competition(p, past, t):
    """Two species of Lotka (1925) and Volterra (1926) that compete, with a season in the first."""
    x, y = _split(past[0])
    r = p["r"] * (1 + p["season"] * np.sin(2 * np.pi * t / p["period"]))
    return _columns(r * (1 - x - p["a"] * y), p["s"] * (1 - y - p["b"] * x))


def _epidemic(p, past, t):
    """Susceptibles and infected, with births and a season (Kermack and McKendrick 1927; Dietz 1976), shares of 1."""
    s, i = _split(past[0])
    beta = p["R"] * (p["g"] + p["m"]) * (1 + p["season"] * np.sin(2 * np.pi * t / p["period"]))
    return _columns(p["m"] / s - beta * i - p["m"], beta * s - p["g"] - p["m"])


# ------------------------------------------------------------------------------------- three and four species


def _chain(p, past, t):
    """A chain of three (Hastings and Powell 1991, Ecology 72, 896-903): periodic or chaotic."""
    x, y, z = _split(past[0])
    first, second = p["a"] / (1 + p["b"] * x), p["c"] / (1 + p["d"] * y)
    return p["speed"] * _columns(1 - x - first * y, first * x - second * z - p["m"], second * y - p["n"])


def _cyclic(p, past, t):
    """Three species that compete cyclically (May and Leonard 1975, SIAM J. Appl. Math. 29, 243-253)."""
    x, y, z = _split(past[0])
    a, b = p["a"], p["b"]
    return p["speed"] * _columns(1 - x - a * y - b * z, 1 - b * x - y - a * z, 1 - a * x - b * y - z)


def _two_resources(p, past, t):
    """A consumer of two resources that compete (Holt 1977, Theor. Pop. Biol. 12, 197-229)."""
    x, y, z = _split(past[0])
    eaten = 1 + p["h"] * (p["a"] * x + p["b"] * y)
    return _columns(
        p["r"] * (1 - x - p["o"] * y) - p["a"] * z / eaten,
        p["s"] * (1 - y - p["o"] * x) - p["b"] * z / eaten,
        p["e"] * (p["a"] * x + p["b"] * y) / eaten - p["m"],
    )


def _web(p, past, t):
    """Two resources and two consumers, each of which prefers one."""
    x, y, u, v = _split(past[0])
    for_u, for_v = 1 + p["h"] * p["a"] * (x + p["o"] * y), 1 + p["h"] * p["b"] * (y + p["o"] * x)
    return _columns(
        p["r"] * (1 - x - p["o"] * y) - p["a"] * u / for_u - p["o"] * p["b"] * v / for_v,
        p["s"] * (1 - y - p["o"] * x) - p["b"] * v / for_v - p["o"] * p["a"] * u / for_u,
        p["e"] * p["a"] * (x + p["o"] * y) / for_u - p["m"],
        p["e"] * p["b"] * (y + p["o"] * x) / for_v - p["n"],
    )


def _patches(p, past, t):
    """Predators and prey in two patches, between which the predators wander (Jansen 1995, Oikos 74, 384-390)."""
    x, y, u, v = _split(past[0])
    one, two = p["a"] / (1 + p["a"] * p["h"] * x), p["a"] / (1 + p["a"] * p["h"] * u)
    return _columns(
        p["r"] * (1 - x) - one * y,
        p["e"] * one * x - p["m"] + p["d"] * (v / y - 1),
        p["s"] * (1 - u) - two * v,
        p["e"] * two * u - p["m"] + p["d"] * (y / v - 1),
    )


def _beetles(p, past, t):
    """Larvae, pupae and adults of flour beetles (Costantino and others 1997, Science 275, 389-391), in units of 100."""
    larvae, pupae, adults = _split(past[0])
    born = p["b"] * adults * np.exp(-p["c"] * larvae - p["d"] * adults)
    grown = pupae * np.exp(-p["e"] * adults) + (1 - p["m"]) * adults
    return np.log(_columns(born / larvae, (1 - p["l"]) * larvae / pupae, grown / adults))


RATES = np.array([1, 0.72, 1.53, 1.27])
FOUR = np.array([[1, 1.09, 1.52, 0], [0, 1, 0.44, 1.36], [2.33, 0, 1, 0.47], [1.21, 0.51, 0.35, 1]])


def _four(p, past, t):
    """Four species that compete, chaotic nearby (Vano and others 2006, Nonlinearity 19, 2391-2404)."""
    felt_NV = (1 - p["less"]) * past[0] @ FOUR.T + p["less"] * past[0]
    return p["speed"] * RATES * (1 - felt_NV)


# ---------------------------------------------------------------------------------------------- the kinds

_SEASON = {"season": (0.02, 0.6), "period": (4.0, 40.0)}

TRAINED: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("ricker", 1, {"r": (0.3, 3.3)}, _ricker),
            Kind("hassell", 1, {"g": (1.3, 60.0), "b": (0.8, 9.0)}, _hassell),
            Kind("delayed-1", 1, {"f": (0.5, 1.8)}, _delayed(1), lags=2),
            Kind("delayed-2", 1, {"f": (0.5, 1.8)}, _delayed(2), lags=3),
            Kind("delayed-4", 1, {"f": (0.5, 1.6)}, _delayed(4), lags=5),
            Kind(
                "harmonic", 1,
                {"period": (2.5, 40.0), "size": (0.1, 1.5), "second": (0.01, 0.6), "phase": (0.1, 6.28), "back": (0.2, 0.9)},
                _harmonic, noisy=0.9,
            ),
            Kind("drifting", 1, {"drift": (1e-3, 0.05), "drift2": (1e-3, 0.05), "back": (1e-3, 0.3)}, _drifting, noisy=1.0),
            Kind(
                "second-order", 1, {"modulus": (0.5, 1.0), "period": (3.0, 25.0)},
                _second_order, lags=2, noise=0.5, noisy=1.0,
            ),
            Kind("parasitoids", 2, {"r": (0.4, 2.6), "a": (1.2, 6.0), "c": (0.5, 2.0)}, _parasitoids),
            Kind(
                "rosenzweig-seasons", 2,
                {"r": (0.1, 1.0), "a": (1.5, 12.0), "h": (0.1, 1.2), "e": (0.2, 0.9), "m": (0.05, 0.5), **_SEASON},
                _rosenzweig, flows=True, noise=0.25,
            ),
            Kind(
                "competition", 2, {"r": (0.1, 1.5), "s": (0.1, 1.5), "a": (0.2, 1.4), "b": (0.2, 1.4), **_SEASON},
                _competition, flows=True, noise=0.3,
            ),
            Kind(
                "epidemic", 2,
                {"R": (1.5, 15.0), "g": (0.2, 1.5), "m": (0.004, 0.06), "season": (0.01, 0.3), "period": (12.0, 52.0)},
                _epidemic, flows=True, noise=0.15, start=(0.02, 0.3),
            ),
            Kind(
                "chain", 3,
                {"a": (3.5, 6.5), "b": (2.0, 3.5), "c": (0.08, 0.3), "d": (1.5, 2.5), "m": (0.3, 0.5), "n": (0.008, 0.05),
                 "speed": (0.3, 1.5)},
                _chain, flows=True, noise=0.1,
            ),
            Kind(
                "cyclic", 3, {"a": (0.3, 0.95), "b": (1.05, 1.7), "speed": (0.3, 1.5)}, _cyclic, flows=True, noise=0.2
            ),
            Kind(
                "two-resources", 3,
                {"r": (0.2, 1.2), "s": (0.2, 1.2), "o": (0.1, 0.9), "a": (0.8, 6.0), "b": (0.8, 6.0), "h": (0.1, 1.0),
                 "e": (0.2, 0.8), "m": (0.05, 0.4)},
                _two_resources, flows=True, noise=0.2,
            ),
            Kind(
                "web", 4,
                {"r": (0.2, 1.2), "s": (0.2, 1.2), "o": (0.05, 0.5), "a": (1.5, 8.0), "b": (1.5, 8.0), "h": (0.1, 0.9),
                 "e": (0.3, 0.8), "m": (0.08, 0.4), "n": (0.08, 0.4)},
                _web, flows=True, noise=0.2,
            ),
            Kind(
                "patches", 4,
                {"r": (0.2, 1.0), "s": (0.2, 1.0), "a": (2.0, 10.0), "h": (0.1, 0.9), "e": (0.3, 0.8), "m": (0.08, 0.4),
                 "d": (0.005, 0.2)},
                _patches, flows=True, noise=0.2,
            ),
        )
    }
)  # fmt: skip
"""The kinds that the base is trained on, by name."""

UNSEEN: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("slatkin", 1, {"g": (1.3, 8.0), "b": (1.0, 8.0)}, _slatkin),
            Kind("blowflies", 1, {"d": (0.1, 0.6), "c": (1.0, 4.0)}, _blowflies, lags=5),
            Kind(
                "negative-binomial", 2, {"r": (0.3, 2.2), "a": (1.2, 6.0), "c": (0.5, 2.0), "k": (0.3, 3.0)},
                _negative_binomial,
            ),
            Kind(
                "deangelis", 2,
                {"r": (0.1, 1.0), "a": (2.0, 12.0), "h": (0.1, 1.2), "i": (0.05, 2.0), "e": (0.3, 0.9), "m": (0.05, 0.4)},
                _deangelis, flows=True, noise=0.25,
            ),
            Kind(
                "beetles", 3,
                {"b": (4.0, 12.0), "c": (0.5, 1.5), "d": (0.5, 1.5), "e": (0.3, 2.0), "m": (0.05, 0.9), "l": (0.1, 0.5)},
                _beetles,
            ),
            Kind("four", 4, {"less": (0.02, 0.3), "speed": (0.3, 1.2)}, _four, flows=True, noise=0.15),
        )
    }
)  # fmt: skip
"""The kinds that are read for validation only, by name."""


MAPS = frozenset(kind.name for kind in (*TRAINED.values(), *UNSEEN.values()) if not kind.flows)
"""The kinds in discrete time."""


def draw(name: str, number: int, steps: int, seed: int, least: float, attempts: int = 30) -> np.ndarray:
    """Returns values (number, T, V) float32 of a kind: series that are not at rest, and in which no population falls, in the
    second half, below `least` of its peak.

    Half of them begin with the transient, the others on the attractor. Raises JaxlvError if there is no such kind, or too
    few of its series stay alive.
    """
    kinds = {**TRAINED, **UNSEEN}
    if name not in kinds:
        raise JaxlvError("unknown kind of series", expected=", ".join(kinds), found=name)
    random, found, count = np.random.default_rng(seed), [], 0
    for attempt in range(attempts):
        values_NTV = kinds[name].draw(max(64, number // 2), steps, random, burn=200 * (attempt % 2))
        late_NTV = values_NTV[:, steps // 2 :]
        alive_N = (late_NTV.min(axis=1) > least * values_NTV.max(axis=1)).all(axis=1)
        moving_N = (late_NTV.std(axis=1) > REST * late_NTV.mean(axis=1)).any(axis=1)
        found.append(values_NTV[alive_N & moving_N].astype(np.float32))
        count += len(found[-1])
        if count >= number:
            return np.concatenate(found)[:number]
    raise JaxlvError(f"{count} of {number} series of {name} stay alive in {attempts} attempts")
