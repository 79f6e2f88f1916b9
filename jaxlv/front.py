"""Three lines for a notebook: a forecaster by its name, forecasts of anybody's series, and how good they are.

Axes: N series, S samples, H steps ahead, V variables.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from jaxlv import api
from jaxlv.activity import heard_by
from jaxlv.config import DataConfig, EvaluateConfig, ModelSettings, SamplingConfig, Weights, with_settings
from jaxlv.data.loading import load_series
from jaxlv.data.observations import Handling, Missing, Negative, Observations
from jaxlv.errors import JaxlvError, warn
from jaxlv.forecasting import pool
from jaxlv.forecasting.evaluate import evaluate
from jaxlv.forecasting.origins import Origins
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler
from jaxlv.outcomes import Prediction, Scores
from jaxlv.runs import run, sources
from jaxlv.runs.run import FinishedRun
from jaxlv.settings import argument
from jaxlv.storage.door import is_there
from jaxlv.studies import fitting, given
from jaxlv.studies.choice import ONE, Choice
from jaxlv.studies.progress import Begin, Lines, Say, Silent, Teller, unsaid

READ = ("id", "time", "columns", "separate")  # keywords that say how series are read


class Reading(TypedDict, total=False):
    """Keywords that say how series are read, and what is done with values that a model cannot be given."""

    id: str | None
    time: str | None
    columns: Sequence[str] | None
    separate: bool
    missing: Missing
    negative: Negative


class Drawing(Reading, total=False):
    """Keywords of `Forecaster.predict`."""

    batch_series: int
    method: Literal["model", "pool"]
    calibrate: bool


class Measuring(Reading, total=False):
    """Keywords of `Forecaster.evaluate`."""

    pool: bool


class Forecaster:
    """A model that forecasts series: the embedded base, a run, or a Hugging Face model with or without an adapter.

    Args:
        model: "embedded": of the two bases that come with jaxlv the one that knows the series better ("embedded-cycles" has
            read clean cycles of two variables, "embedded-field" counts, noise and gaps); a run folder, a folder in Hugging
            Face's format, a hub id, or what `jaxlv.open_model` takes.
        adapter: a folder in PEFT's format, laid over the model.
        tokenizer: a folder with the model's tokenizer, if the model has none.
        pays: reserves what is computed in the ledger of a run that has a budget.
        weights: "full", or "int8" or "nf4": of a named model the layers' projections are held in 8 or 4 bits.
        progress: tells on the standard error what is being done, if it takes more than a second.
        sampling: temperature, top_k, top_p, repetition_penalty, grammar.

    Raises:
        JaxlvError: if something is missing or does not fit.

    Example:
        >>> import jaxlv
        >>> forecaster = jaxlv.Forecaster("embedded")
        >>> forecast = forecaster.predict({"year": [1900, 1901, 1902], "lynx": [4, 6.1, 9.8]}, horizon=2, samples=2)
        >>> forecast.frame[["year", "variable"]].values.tolist()
        [[1903, 'lynx'], [1904, 'lynx']]
    """

    def __init__(
        self, model: Any = "embedded", *, adapter: str | Path | None = None, tokenizer: str | Path | None = None,
        pays: bool = True, progress: bool = True, weights: Weights = "full", **sampling: Any,
    ):  # fmt: skip
        known = set(SamplingConfig.__dataclass_fields__)
        unknown = [name for name in sampling if name not in known]
        if unknown:
            raise JaxlvError(f"unknown setting {unknown[0]}", where="Forecaster", expected=", ".join(sorted(known)))
        self.model = model
        self._adapter, self._pays, self._sampling = adapter, pays, sampling
        self._settings = ModelSettings(weights=weights)
        self._begin: Begin = Told if progress else Silent
        self._say: Say = TELLER.say if progress else unsaid
        self._heard = functools.partial(heard_by, TELLER if progress else None)
        with self._heard():
            self.run: FinishedRun | None = run.load_run(Path(model)) if _is_run(model) else None
            opened = api.open_model(model, adapter, settings=self._settings, tokenizer=tokenizer, pays=pays)
            self.sampler = opened.with_sampling(**sampling)
        named = isinstance(model, (str, Path)) and adapter is None
        self._choice = Choice(replace(self._settings, path=str(model)) if named else None)

    def __repr__(self) -> str:
        return f"jaxlv.Forecaster({str(self.model) if isinstance(self.model, (str, Path)) else type(self.model).__name__!r})"

    # ------------------------------------------------------------------------------------------------- series

    def read(self, data: Any, **how: Any) -> Observations:
        """Returns `jaxlv.load_series(data, **how)`, its variables in the order of those that a run was tuned on."""
        with self._heard():
            found = load_series(data, **how)
        return found if how.get("columns") else given.in_order(found, self.run)

    # ------------------------------------------------------------------------------------------------- forecasts

    def predict(
        self,
        data: Any,
        horizon: int,
        *,
        samples: int = 20,
        context: int | None = None,
        seed: int = 0,
        **how: Unpack[Drawing],
    ) -> Prediction:
        """Forecasts the steps behind every series, from all of its steps.

        Args:
            data: what `jaxlv.load_series` takes: a path, a frame, an array, ...
            horizon: steps ahead.
            samples: trajectories of each series.
            context: steps that the model is given; all of them, as far as it has read such long texts, if None.
            seed: of the samples.
            **how: `id`, `time`, `columns` and `separate` as in `jaxlv.load_series`; `missing`: "interpolate" missing
                values, "mark" them in the text, "drop" the steps before the last of them, or "error"; `negative`: "shift"
                variables with negative values above zero, or "error". `batch_series`: series that are decoded together, by
                default as many as the device's memory holds.
                `method`: "model", or "pool": the model, VAR, analogs and fitted equations, weighted by how well each
                forecast the context itself from steps within it. `calibrate`: stretches the samples so that their bands
                hold their share at these steps; those of the pool always are.

        Returns:
            The forecast, with the caller's ids, names and times.

        Raises:
            JaxlvError: if the data are not understood, or if no series can be forecast.
        """
        drawing: dict[str, Any] = dict(how)
        method, calibrate = drawing.pop("method", "model"), drawing.pop("calibrate", False)
        batch = argument(EvaluateConfig, "batch_series", drawing.pop("batch_series", 0), "batch_series")
        horizon = counted("horizon", horizon)
        read, handling = split(drawing)
        found = self.read(data, **read)
        steps = self.room(len(found.variables), horizon) if context is None else counted("context", context)
        known = given.ready(found, self.sampler, handling, steps)
        series, notes = known.series, list(known.notes)
        longest = max(map(len, found.values))
        if context is None and steps < longest:
            notes.append(f"the last {steps} of {longest} steps are the context: the model has read no longer texts")
        length = series.values_NTV.shape[1]
        request = Request(length, horizon, samples, seed, min(batch, len(series)))
        with self._heard():
            reader = self._choice.reader(self.sampler, series, length)
            notes += given.unfamiliar(series, reader, length, horizon)
        for note in notes:
            warn(note)
        with self._heard(), self._begin("forecast", len(series)) as bar:
            chosen = "calibrated" if calibrate and method == "model" else method
            made = pool.forecast(chosen, reader.sampler, series, request, bar.update)
        return Prediction(made, series, tuple(notes), reader.name)

    def room(self, variables: int, horizon: int) -> int:
        """Returns how many steps of context the model has read texts for, besides `horizon` steps of forecast."""
        return given.room(self.sampler, self.model, self.run.config if self.run else None, variables, horizon)

    # -------------------------------------------------------------------------------------------------- training

    def fit(
        self,
        data: Any,
        *,
        holdout: int | None = None,
        steps: int = 200,
        out: str | Path | None = None,
        seed: int = 0,
        settings: Sequence[str] = (),
        **how: Any,
    ) -> Forecaster:
        """Tunes the model on series by LoRA, and goes on as the tuned one.

        Args:
            data: what `jaxlv.load_series` takes.
            holdout: the last steps of every series that are never trained on; if None, a fifth of the shortest series if
                there are fewer than ten, else none: then whole series are split.
            steps: optimiser steps.
            out: the run folder, with which `jaxlv evaluate` and the other programs go on; a temporary one if None.
            seed: of the training.
            settings: of the config, such as "optimizer.learning_rate=1e-4".
            **how: `id`, `time`, `columns` and `separate` of `jaxlv.load_series`.

        Returns:
            This forecaster, tuned; `run` is what it was tuned by.

        Raises:
            JaxlvError: if the data or the settings do not fit, or if the model is not one that can be named.
        """
        from jaxlv.studies import train as training  # here, as a forecast needs no optimiser

        if self.run is not None or not isinstance(self.model, (str, Path)) or self._adapter:
            raise JaxlvError(
                "a forecaster is tuned from a model by its name", where="fit", expected='"embedded", a folder, a hub id'
            )
        unknown = [name for name in how if name not in READ]
        if unknown:
            raise JaxlvError(f"unknown setting {unknown[0]}", where="fit", expected=", ".join(READ))
        if holdout is not None:
            holdout = argument(DataConfig, "holdout", holdout, "holdout")
        with self._heard():
            found = load_series(data, **how)
        config = fitting.fitted(found, str(self.model), holdout, steps, say=self._say)
        config = fitting.changed(
            config, train={"seed": seed}, sampling=self._sampling, model={"weights": self._settings.weights}
        )
        config = with_settings(config, settings)
        folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="jaxlv-")) / "run"
        with self._heard():
            inputs = sources.load_inputs(config, given=found)
            training.train(config, folder, inputs=inputs, begin=self._begin)
        self.run = run.load_run(folder)
        self.model, self._choice = folder, ONE
        self.sampler = api.open_model(folder, pays=self._pays).with_sampling(**self._sampling)
        return self

    # ------------------------------------------------------------------------------------------------- measuring

    def evaluate(
        self,
        data: Any,
        horizon: int | None = None,
        *,
        origins: int = 1,
        every: int | None = None,
        context: int | None = None,
        samples: int = 20,
        seed: int = 0,
        **how: Unpack[Measuring],
    ) -> Scores:
        """Measures forecasts of the last steps of every series, beside the baselines, from several origins.

        Args:
            data: what `jaxlv.load_series` takes.
            horizon: steps ahead; those that a run held out if None.
            origins: how many forecasts of each series, the last of which ends with it.
            every: steps between origins; `horizon` if None.
            context: steps before an origin that the model is given; all, as far as it has read such long texts, if None.
            samples: trajectories of each forecast.
            seed: of the samples.
            **how: `id`, `time`, `columns`, `separate`, `missing` and `negative` as in `predict`; each window is shifted by
                its own context. `pool`: measures the pool, too (see `predict`).

        Returns:
            The scores of the model (of a run: tuned and untuned) and of every baseline, in the units of the data.

        Raises:
            JaxlvError: if no window is left, for instance because a run was trained on the steps to be forecast.
        """
        measuring: dict[str, Any] = dict(how)
        pooled = measuring.pop("pool", False)
        read, handling = split(measuring)
        found = self.read(data, **read)
        held = self.run.config.data.holdout if self.run else 0
        if horizon is None and not held:
            raise JaxlvError("how many steps ahead", where="evaluate", expected="a horizon")
        ahead = counted("horizon", held if horizon is None else horizon)
        steps = self.room(len(found.variables), ahead) if context is None else counted("context", context)
        windows = given.windows(found, self.sampler, Origins(ahead, origins, every, steps), handling, self.run)
        config = EvaluateConfig(
            context=windows.context, horizon=ahead, samples=samples, seed=seed, unmasked_samples=0
        )  # fmt: skip
        for note in windows.notes:
            warn(note)
        with self._heard():
            reader = self._choice.reader(self.sampler, windows.windows, windows.context)
        with (
            self._heard(),
            self._metered(reader.sampler) as models,
            self._begin("forecasts", len(windows.windows) * len(models)) as bar,
        ):
            done = dict.fromkeys(models, 0)

            def on_batch(name: str, count: int) -> None:
                done[name] = count
                bar.update(sum(done.values()))

            measured, made = evaluate(models, windows.windows, config, pooled=pooled, on_batch=on_batch)
        measured = replace(measured, protocol=replace(measured.protocol, base=reader.name))
        return Scores(measured, made, windows.windows, windows.notes)

    def _metered(self, sampler: Sampler) -> Any:
        if self.run is None:
            return contextlib.nullcontext({"untuned": sampler})
        return self.run.metered()


def counted(name: str, value: Any) -> int:
    """Returns a whole number from 1; raises JaxlvError if it is something else."""
    return int(argument(EvaluateConfig, name, value, name))


def split(reading: Mapping[str, Any]) -> tuple[dict[str, Any], Handling]:
    """Returns what says how to read, and what says how to handle values; raises JaxlvError for unknown names."""
    unknown = [name for name in reading if name not in Reading.__annotations__]
    if unknown:
        raise JaxlvError(f"unknown setting {unknown[0]}", expected=", ".join(Reading.__annotations__))
    rest: dict[str, Any] = dict(reading)
    handled = {name: rest.pop(name) for name in ("missing", "negative") if name in rest}
    return rest, Handling(**handled)


TELLER = Teller(lambda text: print(f"jaxlv: {text}", file=sys.stderr))


class Told(Lines):
    """Tells on the standard error how far a piece of work is, if it takes long."""

    def __init__(self, label: str, total: int):
        super().__init__(label, total, TELLER.say)

    def update(self, done: int, facts: str = "") -> None:
        """Shows nothing of work that ends before its first line."""
        if done < self.total or self.told != self.started:
            super().update(done, facts)


def _is_run(model: Any) -> bool:
    return isinstance(model, (str, Path)) and is_there(Path(model) / run.CONFIG)
