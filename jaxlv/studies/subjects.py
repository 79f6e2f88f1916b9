"""What a study is about: a run, or a bare model with an adapter or without, and the series that it is measured on."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlv.config import CodecConfig, ModelSettings, RunConfig
from jaxlv.data import loading
from jaxlv.data.observations import USUAL, Handling, Observations
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.forecasting.sampler import Sampler
from jaxlv.lora.adapters import load_adapter, read_codec
from jaxlv.model.bases import BASE, base_of_adapter
from jaxlv.model.weights import base_of, resolve
from jaxlv.runs import run, sources
from jaxlv.storage.door import is_there
from jaxlv.storage.foreign import hub_revision
from jaxlv.studies import given
from jaxlv.studies.choice import ONE, Choice, Reader
from jaxlv.studies.progress import Say, unsaid
from jaxlv.text.codec import Codec

Models = dict[str, Sampler]


class Reading(NamedTuple):
    """Models that read certain series, and how the first of them was chosen."""

    models: Models
    reader: Reader


@dataclass(frozen=True)
class Bare:
    """Says how a model that is not a run is opened. If None, `scale` and `decimals` of its text are the adapter's."""

    adapter: Path | None = None
    scale: str | None = None
    decimals: int | None = None
    dtype: str = "float32"
    weights: str = "full"
    revision: str = ""


@dataclass(frozen=True)
class Asked:
    """A request: which model is asked about which series, and by which settings.

    `subject` is a run folder, a model folder, a hub id, or "embedded". `protocol` and `sampling` change its settings of
    these names. `purpose` names the result in the ledger of a run.
    """

    subject: str
    data: Path | Observations | None = None  # file of series, or series that were read; the run's own if None
    series: Sequence[Any] | None = None  # ids; those that the subject may be measured on if None
    most: int | None = None  # of those
    protocol: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    bare: Bare = Bare()
    purpose: str = ""
    origins: int | None = None  # forecasts of each series, the last of which ends with it; None: from a step of all series
    every: int | None = None  # steps between them; the horizon if None
    pooled: bool = False  # whether the pool of methods is measured, too
    reading: Mapping[str, Any] = field(default_factory=dict)  # as in `loading.load_series`
    handling: Handling = USUAL


@dataclass(frozen=True)
class Subject:
    """An opened subject: a run, or the models of a bare one, with its config and the series."""

    name: str
    run: run.FinishedRun | None
    config: RunConfig
    source: Observations | SeriesSet  # as they were read, or simulated
    bare: Models = field(default_factory=dict)  # by name, if it is not a run
    handling: Handling = USUAL
    choice: Choice = ONE

    def reads(self, models: Models, series: SeriesSet, context: int) -> Reading:
        """Returns the models as they read the first `context` steps of series: what "embedded" stands for is settled."""
        first = next(iter(models))
        reader = self.choice.reader(models[first], series, context)
        return Reading({**models, first: reader.sampler}, reader)

    @functools.cached_property
    def data(self) -> SeriesSet:
        """The series as models take them; of a run's own those that it was made of. What is noted of them is a warning."""
        if isinstance(self.source, SeriesSet):
            return self.source
        if self.run is not None and self.source.where == "run":
            return sources.complete(self.config.data, self.source)
        return loading.told(self.source.ready(self.handling), self.source)

    @property
    def observed(self) -> Observations:
        """The series as they were read, all steps of them."""
        return loading.load_series(self.source)

    def held(self) -> list[Any]:
        """Returns the ids of the series that it may be measured on: of a run the test series, or of another file those
        unseen; of a bare model all, or those of the default split's test if they are simulated.
        """
        if self.run is not None:
            return held_series(self.run, self.data)
        if isinstance(self.source, SeriesSet):
            return sources.split_series(self.config, self.data).test.tolist()
        return self.data.ids_N.tolist()

    def chosen(self, ids: Sequence[Any] | None, most: int | None = None) -> SeriesSet:
        """Returns the series of these ids, or if they are None at most so many of those that it may be measured on.

        Raises JaxlvError if an id is unknown, or if there are none that it may be measured on.
        """
        chosen = list(ids) if ids is not None else self.held()[: most or None]
        if not chosen and self.run is not None and self.run.config.data.holdout:
            hint = "jaxlv evaluate RUN measures these steps; else name series: --data FILE --series IDS"
            what = "the run held out the last steps of its series, and no whole series"
            raise JaxlvError(what, where=self.run.folder, expected="series to look at", hint=hint)
        if ids is None and not chosen:
            raise JaxlvError("the run has no test series", where=self.name, hint="name the series with --series")
        return self.data.select(chosen)

    def seen(self, chosen: SeriesSet) -> list[Any]:
        """Returns the ids of those series that the run trained on or was validated on."""
        return [] if self.run is None else self.run.seen(chosen).tolist()

    def paying(self, purpose: str = "") -> contextlib.AbstractContextManager[Models]:
        """Yields the models, "tuned" and "untuned"; those of a run spend from its budget (see `FinishedRun.metered`)."""
        return contextlib.nullcontext(dict(self.bare)) if self.run is None else self.run.metered(purpose)


def open_subject(asked: Asked, say: Say = unsaid) -> Subject:
    """Opens the run or the bare model that is asked about, and the series.

    Raises JaxlvError if it is neither, if a file is not there or damaged, or if a run is given settings of a bare model.
    """
    folder = Path(asked.subject)
    finished = run.load_run(folder) if is_there(folder / run.CONFIG) else None
    if finished:
        _refuse_bare(asked.bare)
    else:
        resolve(asked.subject, asked.bare.revision or None)  # before series are made for nothing
    config = finished.config if finished else RunConfig()
    source = _source(asked, config, finished)
    if finished:
        return Subject(folder.name, finished, config, source, handling=asked.handling)
    return _open_bare(asked, config, source, say)


def _source(asked: Asked, config: RunConfig, finished: run.FinishedRun | None) -> Observations | SeriesSet:
    """Returns the series that are asked about, their variables in the order of a run's; or those of the config."""
    if asked.data is not None:
        found = loading.load_series(asked.data, **asked.reading)
        return found if asked.reading.get("columns") else given.in_order(found, finished)
    own = sources.observed(config, finished.folder if finished else None)
    if own is None:
        return sources.load_series(config)
    return replace(own, where="run")


def _refuse_bare(bare: Bare) -> None:
    if bare.scale is not None or bare.decimals is not None:
        raise JaxlvError("a run keeps the text format that it was trained with", where="--scale, --decimals")
    if bare.adapter:
        raise JaxlvError("a run has an adapter of its own", where="--adapter", hint="name the base that it was made for")
    for name in ("dtype", "weights", "revision"):
        if getattr(bare, name) != getattr(Bare, name):
            raise JaxlvError("a run keeps the model that it was trained with", where=f"--{name}", found=getattr(bare, name))


def _open_bare(asked: Asked, config: RunConfig, source: Observations | SeriesSet, say: Say) -> Subject:
    bare, text = asked.bare, config.codec
    below = read_codec(bare.adapter) if bare.adapter else None
    if below:
        text = CodecConfig(**{one.name: getattr(below, one.name) for one in fields(CodecConfig)})
    wanted: dict[str, Any] = {"scale": bare.scale, "decimals": bare.decimals}
    text = replace(text, **{name: value for name, value in wanted.items() if value is not None})
    path = base_of_adapter(bare.adapter) if bare.adapter and asked.subject == BASE else asked.subject
    own = {"path": path, "dtype": bare.dtype, "weights": bare.weights, "revision": bare.revision}
    settings = ModelSettings(**{**vars(config.model), **own})
    opened = sources.open_base(settings)
    as_trained = below is not None and below.scale == text.scale
    codec = Codec.of(text, below.dataset_alpha) if below and as_trained else Codec.for_data(text, _values(source))
    models = {"untuned": replace(opened, codec=codec, sampling=config.sampling)}
    if bare.adapter:
        lora = load_adapter(bare.adapter, opened.model, path)
        models = {"tuned": replace(models["untuned"], variables={**opened.variables, "lora": lora}), **models}
        say("note: what the adapter was trained on is not in its files: whether it has seen these series cannot be told")
    named = replace(config, model=replace(settings, path=model_name(path, Path(str(opened.model.folder)))), codec=text)
    choice = ONE if bare.adapter else Choice(settings)
    return Subject(Path(asked.subject).name, None, named, source, models, asked.handling, choice)


def _values(source: Observations | SeriesSet) -> np.ndarray:
    return source.values_NTV if isinstance(source, SeriesSet) else source.padded()


def held_series(finished: run.FinishedRun, data: SeriesSet) -> list[Any]:
    """Returns the ids of the series that a run may be measured on: its test series, or of another file those unseen.

    Raises JaxlvError if the run has seen them all.
    """
    if data.source.get("sha256") == finished.manifest.data.sha256:
        return sources.split_series(finished.config, data).test.tolist()
    seen = set(finished.seen(data).tolist())
    unseen = [one for one in data.ids_N.tolist() if one not in seen]
    if not unseen:
        raise JaxlvError("the run has seen every series", where=data.source.get("path"), hint="name ids with --series")
    return unseen


def model_name(subject: str, base: Path) -> str:
    """Returns the name of a model folder, or a hub id with its revision."""
    revision = hub_revision(base)
    return f"{subject}@{revision}" if revision else Path(subject).name


def data_name(data: SeriesSet) -> str:
    """Returns the name of the file of the series, or says that they are simulated."""
    return Path(data.source["path"]).name if "path" in data.source else "simulated series"


def pinned_note(settings: ModelSettings) -> str:
    """Says how a model of the hub stays the one of today; returns "" if it does so already."""
    commit = hub_revision(base_of(settings))
    if not commit or settings.revision == commit:
        return ""
    return f"note: {settings.path} is taken at commit {commit}; model.revision = {commit!r} would keep it there"
