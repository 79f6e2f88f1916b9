"""What a forecaster is asked for, as one object that the library, the command line, protocols and stress tests use."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlv.config import COUNT_OR_NONE, EvaluateConfig
from jaxlv.settings import Statement, argument, settled

SETTINGS = {name: name for name in ("context", "horizon", "samples", "seed")} | {"batch": "batch_series"}


@dataclass(frozen=True)
class Request:
    """Forecasts of `horizon` steps from step `context` on: `samples` of each series.

    Args:
        context: steps from the start of the series that the model is given.
        horizon: steps ahead.
        samples: trajectories of each series.
        seed: of the samples.
        batch: series that are decoded together; if 0, as many as the device's memory holds (on a CPU at most 8). The
            samples do not depend on it.
        shown: if above 0, the prompt also contains so many characters of the next step. The samples finish that step; it is
            discarded and the forecast starts one step later.

    Raises:
        JaxlvError: if a number is not allowed.

    Example:
        >>> import jaxlv
        >>> jaxlv.Request(context=50, horizon=10, samples=20).start
        50
    """

    context: int
    horizon: int
    samples: int
    seed: int = 0
    batch: int = 0
    shown: int = 0

    def __post_init__(self) -> None:
        plain = {own: argument(EvaluateConfig, name, getattr(self, own), name) for own, name in SETTINGS.items()}
        plain["shown"] = settled(self.shown, Statement(int, "", COUNT_OR_NONE), "shown")
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, config: EvaluateConfig, **changes: int) -> Request:
        """Returns what a config asks for, with some numbers changed."""
        return cls(**{**{own: getattr(config, name) for own, name in SETTINGS.items()}, **changes})

    @property
    def skipped(self) -> int:
        """The number of steps that the samples finish and that are discarded: 1 if part of a step is shown, else 0."""
        return int(self.shown > 0)

    @property
    def start(self) -> int:
        """The first step of the forecast, counted from 0."""
        return self.context + self.skipped

    @property
    def drawn(self) -> int:
        """The number of steps that are drawn: those of the forecast, and the one that is discarded."""
        return self.horizon + self.skipped
