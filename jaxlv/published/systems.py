"""The four papers' systems: the order of their stages, what they chose by, the figures they printed, and their errors.

The settings of each stage are configs/NAME/STAGE.toml; how each forecast was measured is in jaxlv.published.protocols.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

STAGES = ("baseline", "first", "grid", "context", "final")
ALLOWANCE = 1e17  # FLOPs that the assignment gave to everything that a paper shows
Setting = bool | int | float | str
Settings = Mapping[str, Setting]
"""Values by "section.key"."""
NONE: Settings = MappingProxyType({})
RATE, RANK, LENGTH = "optimizer.learning_rate", "lora.rank", "windows.length"


@dataclass(frozen=True)
class Reported:
    """A figure that a paper printed of one run: of the stage, and of the settings that tell it from the stage's others."""

    stage: str
    value: float
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """Something that a paper did wrong, or also tried, as settings that do it too.

    `kind` says by what the difference is measured: the validation loss of the final adapter read both ways, that of adapters
    trained the paper's way, for every length of windows, forecasts of the final adapter made both ways, forecasts of two
    adapters trained both ways, or the FLOPs of the steps.
    """

    key: str
    words: str  # what the paper did
    right: str  # what is done here
    settings: Settings
    kind: Literal["loss", "lengths", "forecast", "training", "steps"]


@dataclass(frozen=True)
class System:
    """A paper: the convention that it counts FLOPs by, the figure that its runs are chosen by, and what it printed."""

    name: str
    convention: str  # of jaxlv.flops.conventions.CONVENTIONS
    rule: Literal["validation_loss", "forecast_mae"]
    figure: str  # what its validation figures are, with their unit
    reported: tuple[Reported, ...]
    faults: tuple[Fault, ...]
    point: Literal["median", "mean"] = "median"  # of the samples: the forecast that is scored

    def of(self, stage: str, settings: Settings) -> float | None:
        """Returns the figure that the paper printed of a run with these settings; None if it printed none."""
        for one in self.reported:
            if one.stage == stage and all(settings.get(key) == value for key, value in one.settings.items()):
                return one.value
        return None


def _grid(rows: Mapping[int, Sequence[float | None]]) -> tuple[Reported, ...]:
    """Returns figures of a grid from {rank: (at 1e-5, at 5e-5, at 1e-4)}."""
    rates = (1e-5, 5e-5, 1e-4)
    return tuple(
        Reported("grid", value, {RATE: rate, RANK: rank})
        for rank, values in rows.items()
        for rate, value in zip(rates, values, strict=True)
        if value is not None
    )


def _lengths(values: Mapping[int, float]) -> tuple[Reported, ...]:
    return tuple(Reported("context", value, {LENGTH: length}) for length, value in values.items())


PADS = Fault(
    "pads",
    "padding counted in the loss",
    "loss over real tokens alone",
    {"windows.pads": "counted"},
    "lengths",
)
GENERATION = Fault(
    "generation",
    "Qwen's generation defaults behind the sampling: repetition penalty 1.1, 20 most probable tokens",
    "no penalty, no cut of the most probable tokens",
    {"sampling.repetition_penalty": 1.1, "sampling.top_k": 20, "sampling.grammar": False},
    "forecast",
)
LATE = Fault(
    "steps",
    "the limit of 10,000 steps is looked at after the step: 10,001 steps",
    "10,000 steps",
    {"train.steps": 10_001},
    "steps",
)


def _scale(name: str) -> Fault:
    words = f"scale of {name}'s rule, fitted on values that include what is forecast"
    return Fault("scale", words, "scale fitted on the context alone, with head-room", {"codec.scale": name}, "training")


SYSTEMS: Mapping[str, System] = MappingProxyType(
    {
        system.name: system
        for system in (
            System(
                "xu",
                "xu",
                "forecast_mae",
                "validation MAE, xu's units",
                (),
                (
                    _scale("xu"),
                    Fault(
                        "parsing",
                        "numbers of a sample paired by their position in the whole text",
                        "numbers paired within their time step",
                        {"codec.parsing": "position", "sampling.grammar": False},
                        "forecast",
                    ),
                    GENERATION,
                    LATE,
                ),
            ),
            System(
                "rai",
                "rai",
                "validation_loss",
                "validation loss, nats per token, padding included",
                (
                    Reported("baseline", 1.1926),
                    Reported("first", 0.9555),
                    *_grid({2: (None, 0.7899, None), 4: (0.9555, 0.7444, 0.6551), 8: (None, 0.6788, 0.6147)}),
                    *_lengths({128: 0.7088, 512: 0.6147, 768: 0.4207}),
                    Reported("final", 0.2878),
                ),
                (PADS, _scale("rai"), GENERATION, LATE),
            ),
            System(
                "mao",
                "mao",
                "forecast_mae",
                "validation MAE of 5 steps, mao's units",
                (
                    *_grid(
                        {
                            2: (0.11567, 0.065344, 0.055142),
                            4: (0.095438, 0.058066, 0.055869),
                            8: (0.086855, 0.055118, 0.051754),
                        }
                    ),
                    *_lengths({128: 0.13428, 512: 0.051754, 768: 0.034004}),
                ),
                (
                    _scale("mao"),
                    Fault(
                        "tenth",
                        "also tried: training on a tenth of the series",
                        "on all of them",
                        {"data.train_share": 0.1},
                        "training",
                    ),
                    GENERATION,
                    LATE,
                ),
            ),
            System(
                "liu",
                "liu",
                "validation_loss",
                "validation loss, a quarter of nats per token, padding included",
                (
                    *_grid(
                        {
                            2: (0.178819, 0.144813, 0.136313),
                            4: (0.167862, 0.139927, 0.131203),
                            8: (0.157625, 0.135002, 0.128060),
                        }
                    ),
                    *_lengths({128: 0.1879, 512: 0.1502, 768: 0.1559}),
                    Reported("final", 0.1121),
                ),
                (
                    PADS,
                    Fault(
                        "mean",
                        "batch means added up and divided by the number of windows, not of batches",
                        "sum over tokens by their number",
                        {"train.mean": "examples"},
                        "loss",
                    ),
                    GENERATION,
                    LATE,
                ),
                point="mean",
            ),
        )
    }
)
"""By name of the paper."""
