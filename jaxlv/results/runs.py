"""What a run folder tells of its run, in addition to what the run reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxlv.results.anatomy import Training
from jaxlv.results.quantities import quantity
from jaxlv.results.record import Record, rare


@dataclass(frozen=True)
class Hashed(Record):
    """What a run was made of, known again by its hash."""

    sha256: str
    name: str | None = rare()
    revision: str | None = rare()  # of a base from the hub
    series: int | None = rare()  # in a data file
    variables: tuple[str, ...] | None = rare()  # their names
    lengths: tuple[int, ...] | None = rare()  # steps that series have, those that are held out not counted


@dataclass(frozen=True)
class Manifest(Record):
    """What a run was made of, so that it can be made again: no names of machines or users. Its JSON is manifest.json."""

    data: Hashed
    base: Hashed
    dataset_alpha: float | None
    run: str | None = rare()  # the name that its folder had
    versions: Mapping[str, str] = field(default_factory=dict)
    model: Mapping[str, object] | None = rare()  # its sizes
    start: Hashed | None = rare()  # the adapter that it began from
    tokens: str | None = rare()
    seeds: Mapping[str, int] | None = rare()


@dataclass(frozen=True)
class Mark(Record):
    """The best checkpoint of a run so far: its step, and the value of what it was measured by."""

    step: int
    value: float
    measure: str | None = rare()


@dataclass(frozen=True)
class Facts(Record):
    """What is kept beside a checkpoint: counts since the run began, and the best one by then. Its JSON is facts.json."""

    tokens: float = 0.0
    seconds: float = 0.0
    skipped: float = 0.0
    best: Mark | None = rare()


@dataclass(frozen=True)
class RunCost(Record):
    """What a run cost; what is unknown is None."""

    steps: int | None = quantity("Training steps", form="count")
    tokens: int | None = quantity("Tokens trained on", form="count")
    seconds: float | None = quantity("Training time", "s")
    trainable_parameters: int | None = quantity("Trainable parameters", form="count")
    device: str | None = quantity("Device", form="words")
    peak_memory_bytes: int | None = quantity("Peak memory", "bytes")


@dataclass(frozen=True)
class Priced(Record):
    """What some work cost in FLOPs, by convention."""

    work: str
    flops: Mapping[str, int]


@dataclass(frozen=True)
class RunDetails(Record):
    """What lies in a run folder: what it was made of, its series by share, its bill by work, and its curves."""

    manifest: Manifest | None = None
    split: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # {share: {id: mark of its values}}
    steps: int = 0  # that are planned
    ended: bool = True
    cost: RunCost | None = None
    bill: tuple[Priced, ...] = ()  # the last row is of all together
    budget: float = 0.0  # FLOPs by the first convention of the bill
    curves: Training | None = None
