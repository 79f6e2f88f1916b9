"""The bases that the name "embedded" stands for: each set of series is read by the one that knows it better.

Axes: N series.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from jaxlv.config import ModelSettings
from jaxlv.data.series import SeriesSet
from jaxlv.forecasting.familiar import nats_per_written_value
from jaxlv.forecasting.sampler import Sampler
from jaxlv.model.bases import BASE, CYCLES, FIELD, limits_of
from jaxlv.runs import sources

JUDGED = 16  # series by which a set is judged


class Reader(NamedTuple):
    """A model that reads series: its name and why it does, if it was chosen, and what each context costs it, (N,) in nats
    for each written value, if that is known.
    """

    sampler: Sampler
    name: str | None = None
    why: str = ""
    nats_N: np.ndarray | None = None

    @property
    def told(self) -> str:
        """The choice in a line; "" if there was none."""
        return f"read by {self.name}: {self.why}" if self.name else ""


@dataclass(frozen=True)
class Choice:
    """What a model's name stands for: "embedded" for the base of clean cycles and the one for the field, any other name for
    one model.
    """

    settings: ModelSettings | None = None  # of the model that is named; None: no name was given

    @property
    def is_open(self) -> bool:
        """Whether there is something to choose."""
        return self.settings is not None and self.settings.path == BASE

    @functools.cached_property
    def _field(self) -> Sampler:
        return sources.open_base(replace(self.settings or ModelSettings(), path=FIELD))

    def named(self) -> Sampler:
        """Returns the sampler that the name opens."""
        return sources.open_base(self.settings or ModelSettings())

    def reader(self, sampler: Sampler, series: SeriesSet, context: int) -> Reader:
        """Returns what reads the first `context` steps of series, given the sampler that the name has opened.

        If one base alone has read series of so many variables, it does. Else it is the one to which the contexts cost less,
        in nats for each written value, by the median over the first JUDGED series.
        """
        if not self.is_open:
            return Reader(sampler)
        V = len(series.variables)
        bases = {FIELD: replace(self._field, codec=sampler.codec, sampling=sampler.sampling), CYCLES: sampler}
        known = [name for name, one in bases.items() if str(V) in limits_of(one.model.folder)]
        if len(known) < 2:
            name = known[0] if known else FIELD
            who = "it alone" if known else "no base"
            return Reader(bases[name], name, f"{who} has read series of {V} variable{'s' * (V > 1)}")
        judged = series.rows(np.arange(min(JUDGED, len(series))))
        nats = {name: nats_per_written_value(one, judged, context) for name, one in bases.items()}
        return _cheapest(bases, nats, len(series))


def _cheapest(bases: Mapping[str, Sampler], nats: Mapping[str, np.ndarray], count: int) -> Reader:
    """Returns the base to which contexts cost least; the first if they are too short to tell."""
    typical = {name: np.median(nats_N[np.isfinite(nats_N)]) for name, nats_N in nats.items() if np.isfinite(nats_N).any()}
    name = min(typical, key=lambda one: typical[one], default=next(iter(bases)))
    others = ", ".join(f"{typical[other]:.3g} to {other}" for other in typical if other != name)
    why = f"a written value costs {typical[name]:.3g} nats, {others}" if typical else "so few steps do not tell"
    return Reader(bases[name], name, why, nats[name] if len(nats[name]) == count else None)


ONE = Choice()
"""What nothing is to be chosen of."""
