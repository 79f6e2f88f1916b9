"""Series as people have them: of several lengths and starts, with missing values, in their own names, ids and times.

Axes: N series, T steps, V variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from jaxlv.data.arrays import LARGEST, shortened
from jaxlv.data.clock import Clock, moment
from jaxlv.data.filling import interpolated
from jaxlv.data.series import FAULTS, NO_COLUMNS, Layout, SeriesSet, first_place
from jaxlv.errors import JaxlvError

Missing = Literal["interpolate", "mark", "drop", "error"]
Negative = Literal["shift", "error"]
FLATTENS = 200.0  # times the next largest value: with two decimals, the rest is then written with one digit or none
CODES = (-99, -999, -9999, -99999, -99.9, -999.9, -9999.9, -99.99, -999.99, -9999.99, -88, -888, -8888, -77, -777, -7777)
"""Numbers that stand for missing values where nothing else is below zero."""
SURE = -900  # codes up to this one stand for missing values beside smaller numbers below zero, too
PERHAPS = (-1, -9, -8, -7)
BAD = "missing, infinite, negative or too large"
MOST_MISSING = 0.5  # of the steps of a series that is interpolated
MARGIN = 0.5  # of the range of a context, that a shift leaves below its least value


@dataclass(frozen=True)
class Handling:
    """What is done with values that a forecast cannot see as they are.

    missing: "interpolate" between the values around a gap (beyond the ends: the nearest), "mark" it as an empty field of the
    text, and interpolate for what reads no gaps, "drop" the steps before the last gap, or "error"; negative: "shift" each
    variable above zero, or "error".
    """

    missing: Missing = "interpolate"
    negative: Negative = "shift"

    def __post_init__(self) -> None:
        """Raises JaxlvError for other words."""
        for name, choices in (("missing", Missing), ("negative", Negative)):
            known = get_args(choices)
            if getattr(self, name) not in known:
                raise JaxlvError("unknown choice", where=name, expected=", ".join(known), found=repr(getattr(self, name)))


USUAL = Handling()


@dataclass(frozen=True)
class Ready:
    """Series that are ready for forecasts, what was done to them, and those that are not, with the reasons."""

    series: SeriesSet
    notes: tuple[str, ...]
    left_out: Mapping[Any, str]


@dataclass(frozen=True, eq=False)
class Observations:
    """Series of the same variables: `values` has an array (T, V) for each, in raw units, NaN if a value is missing.

    `notes` tell what reading them left out, sorted or found missing; `where` is the file, or what the series came as.
    """

    ids: tuple[Any, ...]
    variables: tuple[str, ...]
    values: tuple[np.ndarray, ...]
    clock: Clock
    layout: Layout = NO_COLUMNS
    source: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    where: Any = "series"
    shared_T: np.ndarray | None = None  # the times of all series as they were given, if they share them and are numbers

    def checked(self) -> Observations:
        """Returns the same; raises JaxlvError if there are no series, or values that are infinite or too large."""
        if not self.ids:
            raise JaxlvError("no series", where=self.where)
        for name in ("infinite", "too large"):
            bad = [FAULTS[name](values_TV) for values_TV in self.values]
            if count := sum(int(bad_TV.sum()) for bad_TV in bad):
                i = next(i for i, bad_TV in enumerate(bad) if bad_TV.any())
                t, v = np.argwhere(bad[i])[0]
                place = f"{self.values[i][t, v]:g} first, at series {self.ids[i]}, step {t}, {self.variables[v]}"
                expected = f"finite values of at most {LARGEST:.7g}"
                hint = 'repair them, or leave these series out: data.bad_series = "drop"'
                raise JaxlvError(f"{count} {name} values", where=self.where, expected=expected, found=place, hint=hint)
        return self

    def decoded(self) -> Observations:
        """Returns the series with numbers that stand for a missing value, such as -999, as NaN, and a note on each: of
        variables that have no other value below zero, or none that is a fifth of it.
        """
        notes: list[str] = []
        values = list(self.values)
        for v, name in enumerate(self.variables):
            below = np.concatenate([values_TV[values_TV[:, v] < 0, v] for values_TV in values])
            is_code = np.isclose(below[:, None], CODES, rtol=1e-6).any(axis=1)
            codes, others = np.unique(below[is_code]), below[~is_code]
            if len(codes) and len(others):
                codes = codes[(codes <= SURE) & (codes < 5 * others.min())]
            if len(codes):
                notes += [f"{_count(below[below == code])} of {code:g} in {name}, taken as missing" for code in codes]
                for i, values_TV in enumerate(values):
                    values[i] = values_TV = values_TV.copy()
                    values_TV[np.isin(values_TV[:, v], codes), v] = np.nan
            elif len(np.unique(below)) == 1 and below[0] in PERHAPS:
                notes.append(
                    f"{_count(below)} of {below[0]:g} in {name}, and no other below zero: leave cells empty if missing"
                )
        return replace(self, values=tuple(values)).noted(*notes) if notes else self

    def padded(self) -> np.ndarray:
        """Returns the values of all series, (N, T, V), aligned at their ends; NaN before the start of a series."""
        length = max(map(len, self.values))
        return np.stack([
            np.pad(values_TV, ((length - len(values_TV), 0), (0, 0)), constant_values=np.nan) for values_TV in self.values
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.ids)

    # ------------------------------------------------------------------------------------------------ in words

    @property
    def told(self) -> str:
        """What the series are in one line: "3 series, variables hare and lynx, yearly 1900 to 1920"."""
        several = len(self) > 1
        lengths = sorted({len(values_TV) for values_TV in self.values})
        steps = f"{lengths[0]} step{'s' * (lengths[0] > 1)}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]} steps"
        names = f"variable{'s' * (len(self.variables) > 1)} {_listed(self.variables)}"
        spans = [self.clock.labels(i, [0, len(values_TV) - 1]) for i, values_TV in enumerate(self.values)]
        first, last = min(span[0] for span in spans), max(span[1] for span in spans)
        dated, ends = self.clock.told, f"{moment(first)} to {moment(last)}"
        span = f"{self.clock.word} {ends} {dated}" if dated.startswith("in steps") else f"{dated} {ends}"
        if not (self.layout.time or self.clock.is_calendar):
            span = ""
        return ", ".join(filter(None, [f"{len(self)} series" if several else "1 series", names, span, steps]))

    def lines(self) -> list[str]:
        """Returns `told` and a line for each note, those about missing values included."""
        return [self.told, *self.notes, *filter(None, [self.gaps(), *self.flattened()])]

    def gaps(self) -> str:
        """Returns how many values are missing, and where first; "" if none is."""
        missing = [(i, values_TV) for i, values_TV in enumerate(self.values) if np.isnan(values_TV).any()]
        if not missing:
            return ""
        count = sum(int(np.isnan(values_TV).sum()) for _, values_TV in missing)
        i, values_TV = missing[0]
        t, v = np.argwhere(np.isnan(values_TV))[0]
        whole = sum(int(np.isnan(values_TV).all(axis=1).sum()) for _, values_TV in missing)
        steps = f" ({whole} whole step{'s' * (whole > 1)})" if whole else ""
        of = f"series {self.ids[i]}, " if len(self) > 1 else ""
        at = f"{self.layout.time or 'step'} {moment(self.clock.labels(i, [t])[0])}"
        first = "the first" if count > 1 else "at"
        return f"{count} missing value{'s' * (count > 1)}{steps}, {first} {of}{at}, {self.variables[v]}"

    def flattened(self) -> list[str]:
        """Returns a line for each variable of a series of which one value leaves no digits to the others."""
        found = []
        for i, values_TV in zip(self.ids, self.values, strict=True):
            for name, values_T in zip(self.variables, values_TV.T, strict=True):
                known = np.sort(np.abs(values_T[np.isfinite(values_T)]))
                if len(known) > 2 and known[-2] > 0 and known[-1] > FLATTENS * known[-2]:
                    found.append(
                        f"series {i}: one value of {name}, {known[-1]:g}, is {known[-1] / known[-2]:.3g} times the next: the"
                        " others keep hardly a digit; is it right?"
                    )
        return found[:3]

    def frame(self) -> pd.DataFrame:
        """Returns a wide frame, under the caller's names: a column of ids (if there are several series, or the caller had
        one), of times, and one for each variable.
        """
        parts = []
        for i, (one, values_TV) in enumerate(zip(self.ids, self.values, strict=True)):
            columns: dict[str, Any] = {self.layout.id or "series": one} if self.layout.id or len(self) > 1 else {}
            columns[self.layout.time or "time"] = self.clock.labels(i, np.arange(len(values_TV)))
            parts.append(pd.DataFrame({**columns, **dict(zip(self.variables, values_TV.T, strict=True))}))
        return pd.concat(parts, ignore_index=True)

    # ------------------------------------------------------------------------------------------------- choosing

    def select(self, ids: Sequence[Any]) -> Observations:
        """Returns the series with these ids, in this order; raises JaxlvError, which names them, if ids are unknown."""
        known = {one: place for place, one in enumerate(self.ids)} | {str(one): place for place, one in enumerate(self.ids)}
        unknown = [one for one in ids if one not in known]
        if unknown or not len(ids):
            expected = f"ids of its {len(self)} series: {shortened(self.ids)}"
            raise JaxlvError("unknown series", where=self.where, expected=expected, found=shortened(unknown) or "none")
        rows = [known[one] for one in ids]
        return self._rows(rows)

    def _rows(self, rows: Sequence[int]) -> Observations:
        source = dict(self.source)
        if "simulation" in source:
            parameters = {name: np.asarray(p)[list(rows)] for name, p in source["simulation"]["parameters"].items()}
            source["simulation"] = {**source["simulation"], "parameters": parameters}
        return replace(
            self, ids=tuple(self.ids[row] for row in rows), values=tuple(self.values[row] for row in rows),
            clock=self.clock.select(list(rows)), source=source,
        )  # fmt: skip

    def noted(self, *notes: str) -> Observations:
        """Returns the same with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    def clean(self) -> Observations:
        """Returns the series whose values are all there, finite, at least 0 and not too large, with a note about the others;
        raises JaxlvError if none is left.
        """
        bad_N = [any(test(values_TV).any() for test in FAULTS.values()) for values_TV in self.values]
        if all(bad_N):
            raise JaxlvError("no series is left", where=self.where, found=f"{BAD} values in all {len(self)}")
        bad = [one for one, is_bad in zip(self.ids, bad_N, strict=True) if is_bad]
        told = f"{len(bad)} of {len(self)} series are left out: {shortened(bad)} ({BAD} values)"
        return self._rows([row for row in range(len(self)) if not bad_N[row]]).noted(*([told] if bad else []))

    def separated(self) -> Observations:
        """Returns each variable as a series of its own, without the missing values around it."""
        ids, values, origins, places = [], [], [], []
        for i, values_TV in enumerate(self.values):
            for v, name in enumerate(self.variables):
                known = np.flatnonzero(np.isfinite(values_TV[:, v]))
                if len(known):
                    ids.append(name if len(self) == 1 else f"{self.ids[i]} {name}")
                    values.append(values_TV[known[0] : known[-1] + 1, v : v + 1])
                    origins.append(int(known[0]))
                    places.append(i)
        clock = self.clock.select(places).moved(origins)
        layout = replace(self.layout, id=self.layout.id or "series")
        return replace(self, ids=tuple(ids), variables=("value",), values=tuple(values), clock=clock, layout=layout)

    def ordered(self, variables: Sequence[str]) -> Observations:
        """Returns the variables in the order of these names, which are compared without regard to case; unchanged if the
        names are others.
        """
        own = [name.casefold() for name in self.variables]
        wanted = [name.casefold() for name in variables]
        if sorted(own) != sorted(wanted) or own == wanted:
            return self
        order = [own.index(name) for name in wanted]
        names = tuple(self.variables[v] for v in order)
        return replace(self, variables=names, values=tuple(values_TV[:, order] for values_TV in self.values))

    def longer_than(self, steps: int) -> Observations:
        """Returns the series that have two more steps than that, or more, with a note on others; raises JaxlvError if none
        has.
        """
        rows = [i for i, values_TV in enumerate(self.values) if len(values_TV) > steps + 1]
        if not rows:
            longest, expected = max(map(len, self.values)), f"more than {steps + 1} steps"
            raise JaxlvError("no series is long enough", where=self.where, expected=expected, found=longest)
        short = [self.ids[i] for i in range(len(self)) if i not in rows]
        told = f"series {shortened(short)} have no more than {steps + 1} steps and are left out"
        return self._rows(rows).noted(*([told] if short else []))

    def until(self, steps: int) -> Observations:
        """Returns the series without their last `steps` steps, as far as they are `longer_than` that."""
        kept = self.longer_than(steps)
        return replace(kept, values=tuple(values_TV[: len(values_TV) - steps] for values_TV in kept.values), shared_T=None)

    # -------------------------------------------------------------------------------------------------- for models

    def ready(self, handling: Handling = USUAL, held: int = 0) -> Ready:
        """Returns the series as forecasts take them, with what was done about missing and negative values.

        The last `held` steps, which a forecast must not see, stay as they are and change nothing before them. A series that
        cannot be used is left out, with the reason. Raises JaxlvError if none is left, or if the handling of what is there
        is "error".
        """
        notes: list[str] = []
        if gaps := self.gaps():
            if handling.missing == "error":
                hint = 'missing = "interpolate" or "drop" uses the series all the same'
                raise JaxlvError(gaps, where=self.where, hint=hint)
            notes.append(f"missing values: {DONE[handling.missing]}")
            if handling.missing == "interpolate" and (beyond := sum(_beyond(v[: len(v) - held]) for v in self.values)):
                notes.append(f"{beyond} of them before the first or behind the last known value, which is repeated there")
        left_out: dict[Any, str] = {}
        found: list[_Filled] = []
        for row, (one, values_TV) in enumerate(zip(self.ids, self.values, strict=True)):
            try:
                found.append(_filled(row, values_TV, handling.missing, held))
            except ValueError as fault:
                left_out[one] = str(fault)
        if not found:
            one, reason = next(iter(left_out.items()))
            raise JaxlvError(f"no series can be used: {reason}", where=self.where, found=f"series {one} first")
        return Ready(self._shifted(self._aligned(found), handling, held, notes), tuple(notes), left_out)

    def aligned(self) -> SeriesSet:
        """Returns the series with what is missing in them as NaN, aligned at their ends."""
        return self._aligned([_Filled(row, values_TV, 0) for row, values_TV in enumerate(self.values)])

    def _aligned(self, found: Sequence[_Filled]) -> SeriesSet:
        rows = [one.row for one in found]
        length = max(len(one.values_TV) for one in found)
        first_N = np.array([length - len(one.values_TV) for one in found])
        values_NTV = np.full((len(found), length, len(self.variables)), np.nan)
        missing_NTV = np.zeros(values_NTV.shape, bool)
        for i, one in enumerate(found):
            values_NTV[i, first_N[i] :] = one.values_TV
            if one.missing_TV is not None:
                missing_NTV[i, first_N[i] :] = one.missing_TV
        clock = self.clock.select(rows).moved(np.array([one.first for one in found]) - first_N)
        more: dict[str, Any] = {"first_N": first_N, "source": self._rows(rows).source, "layout": self.layout}
        if missing_NTV.any():
            more["missing_NTV"] = missing_NTV
        if self.shared_T is not None and not first_N.any() and len(self.shared_T) == length:
            more["time_T"] = self.shared_T
        return SeriesSet.observed(values_NTV, clock, self.variables, [self.ids[row] for row in rows], **more)

    def _shifted(self, found: SeriesSet, handling: Handling, held: int, notes: list[str]) -> SeriesSet:
        seen_NTV = found.values_NTV[:, : found.values_NTV.shape[1] - held]
        negative_NTV = seen_NTV < 0
        if not negative_NTV.any():
            return found
        if handling.negative == "error":
            place = first_place(negative_NTV, self.variables, found.ids_N)
            hint = 'the text has no sign: negative = "shift" moves each variable above zero'
            count = f"{negative_NTV.sum()} negative values"
            raise JaxlvError(count, where=self.where, found=f"the first at {place}", hint=hint)
        shift_NV = shifts(seen_NTV)
        names = [name for name, shift_N in zip(self.variables, shift_NV.T, strict=True) if shift_N.any()]
        notes.append(f"negative values: {_listed(names)} shifted above zero, and forecasts back")
        return replace(found, values_NTV=found.values_NTV + shift_NV[:, None], shift_NV=shift_NV)


class _Filled(NamedTuple):
    """A series whose missing values are settled: its row, its values from step `first` on."""

    row: int
    values_TV: np.ndarray
    first: int
    missing_TV: np.ndarray | None = None  # of values that were filled in, and are marked in the text


def _filled(row: int, values_TV: np.ndarray, missing: Missing, held: int) -> _Filled:
    """Returns the series; raises ValueError, which says why, if it cannot be used."""
    seen = len(values_TV) - held
    if FILLED[missing] is _interpolated and seen and np.isnan(values_TV[:seen]).all(axis=1).mean() > MOST_MISSING:
        raise ValueError("more than half of its steps are missing")
    filled_TV, first = FILLED[missing](values_TV[:seen])
    if len(filled_TV) < 2:
        raise ValueError(f"fewer than 2 steps ({len(filled_TV)})")
    marked_TV = np.isnan(values_TV) if missing == "mark" and np.isnan(values_TV[:seen]).any() else None
    return _Filled(row, np.concatenate([filled_TV, values_TV[seen:]]) if held else filled_TV, first, marked_TV)


def shifts(values_NTV: np.ndarray) -> np.ndarray:
    """Returns (N, V): what is added to each variable of each series with negative values, so that its least value is
    MARGIN of its range above zero; 0 for the others.
    """
    low_NV, high_NV = np.nanmin(values_NTV, axis=1), np.nanmax(values_NTV, axis=1)
    return np.where(low_NV < 0, -low_NV + MARGIN * np.maximum(high_NV - low_NV, 1e-9), 0.0)


def _count(values: np.ndarray) -> str:
    return f"{len(values)} value{'s' * (len(values) > 1)}"


def _beyond(values_TV: np.ndarray) -> int:
    """Returns how many values of a series are missing before the first and behind the last known one of their variable."""
    known_TV = np.isfinite(values_TV)
    before, behind = known_TV.argmax(axis=0), known_TV[::-1].argmax(axis=0)
    return int(((before + behind) * known_TV.any(axis=0)).sum())


def _interpolated(values_TV: np.ndarray) -> tuple[np.ndarray, int]:
    return interpolated(values_TV), 0  # every step is kept


def _after_the_last_gap(values_TV: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns the steps behind the last missing value, and the number of the first."""
    gaps = np.flatnonzero(np.isnan(values_TV).any(axis=1))
    first = int(gaps[-1]) + 1 if len(gaps) else 0
    if first == len(values_TV):
        raise ValueError("its last step is missing")
    return values_TV[first:], first


FILLED: Mapping[Missing, Callable[[np.ndarray], tuple[np.ndarray, int]]] = {
    "interpolate": _interpolated, "mark": _interpolated, "drop": _after_the_last_gap, "error": lambda values: (values, 0),
}  # fmt: skip
DONE: Mapping[str, str] = {
    "interpolate": "interpolated", "mark": "marked in the text", "drop": "the steps before the last gap are not used",
}  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    if len(names) > 8:
        return f"{', '.join(names[:6])} and {len(names) - 6} more"
    return f"{', '.join(first)} and {last}" if first else last
