"""Training of one run, from its config to its folder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from jaxlv.config import RunConfig, find_config, load_config, with_settings
from jaxlv.data.loading import load_series
from jaxlv.errors import JaxlvError
from jaxlv.lora.overlay import normalise_targets
from jaxlv.model.weights import count_params
from jaxlv.runs import billing, run, sources, training
from jaxlv.runs.validation import Texts
from jaxlv.storage.door import is_there
from jaxlv.studies import fitting
from jaxlv.studies.progress import Begin, Say, Silent, unsaid
from jaxlv.studies.subjects import pinned_note
from jaxlv.versions import versions

STEPS = 200  # of a run that no config describes


class Trained(NamedTuple):
    """A run that was trained: its folder, its last figures by their keys in metrics.jsonl, and what the ledger repeated."""

    folder: Path
    figures: Mapping[str, float]
    repeats: str  # in words; "" if there were none


def train(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    inputs: sources.Inputs | None = None,
    begin: Begin = Silent,
    say: Say = unsaid,
) -> Trained:
    """Trains a run in the folder `out`, or goes on with the one there if `resume`.

    If `inputs` are not given, they are loaded as the config says. Raises JaxlvError as `runs.training.train` does.
    """
    run.check_folder(config, out, resume)
    sources.check_fits([config])
    inputs = inputs or sources.load_inputs(config, out if resume else None)
    for line in described(config, inputs):
        say(line)
    with begin("train", config.train.steps) as bar:
        watch = training.Watch(bar.step, bar.note)
        training.train(config, out, inputs, resume=resume, watch=watch, versions=versions())
    return Trained(out, last_figures(out), billing.repeats_of(config, out))


@dataclass(frozen=True)
class Wanted:
    """What a caller says beside a config: a file of series and how it is read, a base, how long, settings, the projections
    that are adapted, and an adapter to begin from.
    """

    data: Path | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    steps: int | None = None
    epochs: int | None = None
    settings: Sequence[str] = ()  # section.key=value
    targets: Sequence[str] = ()
    adapter: Path | None = None

    def kept_by_a_run(self) -> list[str]:
        """Returns the options that are given and that no run takes if it goes on."""
        given = {
            "--set": self.settings,
            "--data": self.data,
            "--model": self.model,
            "--targets": self.targets,
            "--init-adapter": self.adapter,
            "--epochs": self.epochs,
            **{f"--{name}": value for name, value in self.reading.items()},
        }
        return [name for name, value in given.items() if value]


class ToTrain(NamedTuple):
    """A run that is asked for: its config, its folder, and what it is trained on, if that is read."""

    config: RunConfig
    out: Path
    inputs: sources.Inputs | None


def asked_for(config: str | None, out: Path | None, wanted: Wanted, resume: bool = False, say: Say = unsaid) -> ToTrain:
    """Returns the run of a config file, or of the name of one that comes with jaxlv, with what is wanted beside it; or, with
    `resume`, the run in a folder, whose settings stay except for more steps. Raises JaxlvError if these do not fit.
    """
    if resume and config and is_there(Path(config) / run.CONFIG):
        mesh = [one for one in wanted.settings if one.startswith("mesh.")]  # a run may go on on other devices
        rest = replace(wanted, settings=[one for one in wanted.settings if one not in mesh])
        if refused := [*rest.kept_by_a_run(), *["--out"] * (out is not None)]:
            what = "a run keeps its settings, except for more --steps, and mesh.*"
            raise JaxlvError(what, where=config, found=", ".join(refused))
        folder = Path(config)
        settings = run.extend(folder, wanted.steps) if wanted.steps else run.read_config(folder)
        return ToTrain(with_settings(settings, mesh), folder, None)
    settings = planned(load_config(find_config(config)) if config else None, wanted, say)
    if wanted.adapter and wanted.targets:
        raise JaxlvError("targets are the adapter's", where="--targets", hint="leave it out, or --init-adapter")
    targets = [f"lora.targets={list(wanted.targets)}"] if wanted.targets else []
    settings = with_settings(settings, (*wanted.settings, *targets))
    if wanted.adapter:
        settings = sources.begun_from(settings, wanted.adapter)
    inputs = sources.load_inputs(settings) if wanted.epochs else None
    if inputs is not None and wanted.epochs:
        settings = for_epochs(settings, inputs, wanted.epochs)
    if out is None:
        raise JaxlvError("no run folder", where="train", expected="--out RUN, or --resume RUN")
    return ToTrain(settings, out, inputs)


def planned(config: RunConfig | None, wanted: Wanted, say: Say = unsaid) -> RunConfig:
    """Returns a config with what is wanted beside it; without a config, one that fits the file of series.

    Raises JaxlvError if there is neither.
    """
    if config is None:
        if wanted.data is None:
            raise JaxlvError("what is trained", where="train", expected="a config, a run to resume, or --data FILE")
        how = {name: value for name, value in wanted.reading.items() if name not in ("missing", "negative")}
        found = load_series(wanted.data, **how)
        of_data = {"path": str(wanted.data), **wanted.reading}
        config = fitting.fitted(found, wanted.model, steps=wanted.steps or STEPS, say=say, **of_data)
    elif wanted.data is not None:
        config = fitting.changed(config, data={"path": str(wanted.data), **wanted.reading})
    if wanted.model is not None:
        config = fitting.changed(config, model={"path": wanted.model})
    return config if wanted.steps is None else fitting.changed(config, train={"steps": wanted.steps})


def for_epochs(config: RunConfig, inputs: sources.Inputs, epochs: int) -> RunConfig:
    """Returns a config whose steps see every training window `epochs` times."""
    t, windows = config.train, Texts(config, inputs).batches.per_epoch
    return fitting.changed(config, train={"steps": max(1, math.ceil(epochs * windows / (t.batch_size * t.accumulate)))})


def described(config: RunConfig, inputs: sources.Inputs) -> Iterator[str]:
    """Yields lines that say what is trained: the series, the base, the overlay, and how a text begins."""
    shares = ", ".join(f"{len(ids)} {share}" for share, ids in inputs.split.parts().items())
    yield f"series: {len(inputs.series)} ({shares})"
    parameters = f"{count_params(inputs.model):,} parameters"
    yield f"base: {config.model.path}, {parameters}, {config.model.dtype}; {inputs.alphabet.source}"
    if note := pinned_note(config.model):
        yield note
    targets = ", ".join(normalise_targets(config.lora.targets))
    begun = f"; begun from {config.lora.init}" if config.lora.init else ""
    yield f"LoRA: rank {config.lora.rank} on {targets}; head: {config.lora.head}{begun}"
    first_TV = inputs.series.select(inputs.split.train[:1]).written[0]
    alpha_V = inputs.codec.fit(first_TV[: config.evaluate.context], first_TV)
    text = inputs.codec.encode(first_TV[:4], alpha_V, gaps=True)
    yield f"text: {text} -> ids {inputs.alphabet.encode(text[:10]).tolist()} ..."


def last_figures(folder: Path) -> dict[str, float]:
    """Returns the newest value of everything that a run has logged, by its key in metrics.jsonl."""
    found: dict[str, float] = {}
    for record in run.read_metrics(folder / run.METRICS):
        found.update(record)
    return found
