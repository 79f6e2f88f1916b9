"""Sampled forecasts of series: text prompts in, trajectories in raw units out.

Axes: N series, S samples, C context steps, H steps ahead, V variables.
"""

from __future__ import annotations

import collections
import contextlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxlv.config import EvaluateConfig, SamplingConfig
from jaxlv.data.limits import MEMORY_CAP, clean_names
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError, printable
from jaxlv.flops.ledger import Kind, Payer
from jaxlv.flops.work import Drawing
from jaxlv.forecasting import metrics
from jaxlv.model.qwen2 import Qwen2
from jaxlv.settings import SEEDS, argument, checked
from jaxlv.steps.generate import Generated, check_shape, decoding, generate, padded
from jaxlv.steps.needs import check_forecasts, check_generation
from jaxlv.storage import tables
from jaxlv.storage.door import opened
from jaxlv.text.codec import Codec, Decoded
from jaxlv.text.grammar import Grammar, longest_step, number_grammar
from jaxlv.text.tokens import Alphabet

QUANTILES = (0.05, 0.10, 0.25, 0.75, 0.90, 0.95)
_HEADER = b"series,step,time,variable,statistic,value"
INTEGER_DIGITS = 2  # digits before the point that the grammar allows, or more where the context has more


@dataclass(frozen=True)
class Forecast:
    """Trajectories of N series from step `start` (the first forecast step, counted from 0) on.

    `samples_NSHV` is in raw units; the steps that a sample did not complete are NaN. `stops` counts why samples ended.
    """

    ids_N: np.ndarray
    start: int
    time_H: np.ndarray
    variables: tuple[str, ...]
    last_NV: np.ndarray  # the last step of the context
    samples_NSHV: np.ndarray
    stops: dict[str, int]

    @property
    def valid_share(self) -> float:
        """Share of samples that completed every step."""
        return float(np.isfinite(self.samples_NSHV).all(axis=(2, 3)).mean())

    def filled(self) -> np.ndarray:
        """`samples_NSHV` as they are scored: see the function `filled`."""
        return filled(self.samples_NSHV, self.last_NV)

    def median(self) -> np.ndarray:
        """The point forecast (N, H, V): the median over the filled samples at each step."""
        return np.median(self.filled(), axis=1)

    def to_frame(self) -> pd.DataFrame:
        """Rows of series, step, time, variable, statistic (median, mean, q05 ... q95, sample_0 ...), raw value."""
        filled = self.filled()
        parts = {"median": np.median(filled, axis=1), "mean": filled.mean(axis=1)}
        for probability, value_NHV in zip(QUANTILES, metrics.quantiles(filled, QUANTILES), strict=True):
            parts[f"q{round(100 * probability):02d}"] = value_NHV
        parts |= {f"sample_{i}": self.samples_NSHV[:, i] for i in range(filled.shape[1])}
        N, _, H, V = self.samples_NSHV.shape
        grid = {
            "series": np.repeat(self.ids_N, H * V),
            "step": np.tile(np.repeat(self.start + np.arange(H), V), N),
            "time": np.tile(np.repeat(self.time_H, V), N),
            "variable": np.tile(np.array(self.variables, object), N * H),
        }
        frames = [pd.DataFrame({**grid, "statistic": name, "value": v.reshape(-1)}) for name, v in parts.items()]
        return pd.concat(frames, ignore_index=True).sort_values(["series", "step"], kind="stable", ignore_index=True)

    def write_csv(self, path: Path) -> None:
        """`to_frame` as CSV (`tables.write_csv`); the steps that a sample did not complete are empty."""
        tables.write_csv(path, self.to_frame(), float_format="%.6g")


def read_csv(path: Path, series: SeriesSet) -> Forecast:
    """Returns what `write_csv` left, to its six digits; `series` has the contexts. Why samples ended is not in the file.

    Raises JaxlvError if the file is not a forecast, is one of other series, or is larger than `limits.MEMORY_CAP` / 8 (a
    row takes about eight times as much memory as it has bytes).
    """
    most = MEMORY_CAP // 8
    try:
        with opened(path) as stream:
            if (size := stream.seek(0, io.SEEK_END)) > most:
                raise JaxlvError("too large", where=path, expected=f"at most {most} bytes", found=size)
            stream.seek(0)
            if stream.readline(len(_HEADER) + 2).strip() != _HEADER:  # of columns without end pandas would make an index
                raise ValueError("its columns are others")
            frame = pd.read_csv(stream, names=_HEADER.decode().split(","), index_col=False)
        return _from_frame(frame, series, path)
    except JaxlvError:
        raise
    except Exception as fault:  # pandas raises whatever the layer below raised
        raise JaxlvError(f"not a forecast ({type(fault).__name__}: {printable(fault, 200)})", where=path) from None


def _from_frame(frame: pd.DataFrame, series: SeriesSet, path: Path) -> Forecast:
    drawn = frame[frame["statistic"].str.startswith("sample_")]
    keys = ["series", "step", "variable", "statistic"]
    ids_N, steps_H, variables, names = (drawn[key].unique() for key in keys)
    # Each part of a grid may be long where the grid itself would not fit in any memory.
    size = math.prod(map(len, (ids_N, steps_H, variables, names)))
    if not len(drawn) or len(drawn) != size or drawn.duplicated(keys).any():
        raise ValueError("steps are missing")
    ids_N, steps_H = np.sort(ids_N), np.sort(steps_H)
    wide = drawn.pivot(index=keys[:3], columns="statistic", values="value")[list(names)]
    grid = pd.MultiIndex.from_product([ids_N, steps_H, variables])
    samples_NHVS = wide.reindex(grid).to_numpy(float).reshape(len(ids_N), len(steps_H), len(variables), len(names))
    time_H = drawn.drop_duplicates("step").sort_values("step")["time"].to_numpy()
    start = int(steps_H[0])
    if not 1 <= start <= series.values_NTV.shape[1]:
        raise ValueError(f"it begins at step {start}")
    last_NV = series.select(ids_N).values_NTV[:, start - 1]
    cleaned = clean_names([tables.unguarded(name) for name in variables], path)
    return Forecast(ids_N, start, time_H, cleaned, last_NV, np.moveaxis(samples_NHVS, 3, 1), {})


def filled(samples_NSHV: np.ndarray, last_NV: np.ndarray) -> np.ndarray:
    """Samples without NaN (N, S, H, V): an incomplete one stays at its last complete step, or at the context's last.

    This is how invalid samples are scored, drawn and written: they count, as the forecast that a user would be left with.
    """
    N, S, _, V = samples_NSHV.shape
    last_NS1V = np.broadcast_to(last_NV[:, None, None], (N, S, 1, V))
    return forward_filled(np.concatenate([last_NS1V, samples_NSHV], axis=2))[:, :, 1:]


def forward_filled(values_NSTV: np.ndarray) -> np.ndarray:
    """NaN replaced by the last finite value before it along the steps; the first step has none."""
    finite_NSTV = np.isfinite(values_NSTV)
    steps_T = np.arange(values_NSTV.shape[2])[:, None]
    index_NSTV = np.maximum.accumulate(np.where(finite_NSTV, steps_T, 0), axis=2)
    return np.take_along_axis(values_NSTV, index_NSTV, axis=2)


@dataclass(frozen=True)
class Forecaster:
    """A model with everything that turns series into forecasts: variables, alphabet, codec and sampling.

    With a `meter`, each batch is reserved in a ledger before it is generated.
    """

    model: Qwen2
    variables: dict[str, Any]
    alphabet: Alphabet
    codec: Codec
    sampling: SamplingConfig
    meter: Payer | None = None

    def with_sampling(self, **changes: Any) -> Forecaster:
        """The same forecaster with other sampling settings."""
        return replace(self, sampling=replace(self.sampling, **changes))

    def scales(self, series: SeriesSet, context: int) -> np.ndarray:
        """Raw units per written unit of each series and variable, by the codec's rule and its `headroom`: (N, V)."""
        return self._scales(series, context, (self.codec,))[:, 0]

    def _scales(self, series: SeriesSet, context: int, variants: Sequence[Codec]) -> np.ndarray:
        """The same by each of R codecs: (N, R, V)."""
        pairs = zip(series.ids_N, series.values_NTV, strict=True)
        return np.array([[one.fit(v_TV[:context], v_TV, f"series {i}") for one in variants] for i, v_TV in pairs])

    def __call__(
        self,
        series: SeriesSet,
        context: int,
        horizon: int,
        samples: int,
        seed: int = 0,
        batch_series: int = 8,
        on_batch: Callable[[int], None] = lambda done: None,
        shown: int = 0,
        scales_NV: np.ndarray | None = None,
    ) -> Forecast:
        """Forecasts of steps context .. context + horizon - 1 of each series, given the steps before.

        With `shown` characters of step `context` given too, as where a text is cut anywhere, the samples complete that
        step, which is dropped, and the forecast begins with the step behind it. Sample s is written under head-room s of
        the codec's, in turns. `scales_NV` are raw units per written unit, by default what the codec's rule gives.
        Raises JaxlvError for a context longer than the series, for a number that is not allowed, and if the forecasts do not
        fit in the memory. `on_batch(done)` hears how many series are done.
        """
        asked = {"context": context, "horizon": horizon, "samples": samples, "seed": seed, "batch_series": batch_series}
        context, horizon, samples, seed, batch_series = checked(EvaluateConfig, **asked).values()
        values_NTV = series.values_NTV
        cut = int(shown > 0)
        if not 1 <= context <= values_NTV.shape[1] - cut:
            raise JaxlvError(
                "the context does not fit the series", expected=f"1 to {values_NTV.shape[1] - cut} steps", found=context
            )
        self.check_fits(series, context, horizon + cut, samples, batch_series)
        variants = self.codec.variants[:samples] if scales_NV is None else (self.codec,)
        R, each = len(variants), -(-samples // len(variants))
        if scales_NV is None:
            scales_NV = self._scales(series, context, variants).reshape(len(series) * R, -1)
        ids_M, values_MTV = np.repeat(series.ids_N, R), np.repeat(values_NTV, R, axis=0)  # M = N R rows: a series, a scale
        keys_M = ids_M * R + np.tile(np.arange(R), len(series))
        texts = [
            self._text(v_TV, alpha_V, context, shown, f"series {i}")
            for i, v_TV, alpha_V in zip(ids_M, values_MTV, scales_NV, strict=True)
        ]
        prompts, opened = [self.alphabet.encode(whole + part) for whole, part in texts], [part for _, part in texts]
        digits_M = [
            _digits(v_TV[:context] / alpha_V, part)
            for v_TV, alpha_V, part in zip(values_MTV, scales_NV, opened, strict=True)
        ]
        decoded: dict[int, list[Decoded]] = {}
        size = batch_series * R
        for digits in sorted(set(digits_M)):  # rows of one grammar together
            group = np.flatnonzero(np.equal(digits_M, digits))
            for rows in np.split(group, range(size, len(group), size)):
                asked_of = (rows, size, digits, horizon + cut, each, seed)
                samples_of = self._batch(prompts, opened, scales_NV, ids_M, keys_M, *asked_of)
                decoded |= dict(zip(rows.tolist(), samples_of, strict=True))
                on_batch(len(decoded) // R)
        drawn = [[decoded[row * R + s % R][s // R] for s in range(samples)] for row in range(len(series))]
        step = float(series.time_T[1] - series.time_T[0]) if len(series.time_T) > 1 else 1.0
        return Forecast(
            series.ids_N,
            context + cut,
            series.time_T[context - 1] + step * np.arange(1 + cut, horizon + 1 + cut),
            series.variables,
            values_NTV[:, context - 1],
            np.array([[_padded(d.values_TV[cut:], horizon) for d in row] for row in drawn]),
            dict(collections.Counter(d.stop for row in drawn for d in row)),
        )

    def check_fits(self, series: SeriesSet, context: int, horizon: int, samples: int, batch_series: int) -> None:
        """Raises JaxlvError if forecasts do not fit in the memory."""
        V, decimals, variants = len(series.variables), self.codec.decimals, len(self.codec.variants[:samples])
        check_forecasts(len(series), samples, horizon, V)
        length, new_tokens = context * V * (decimals + 3), horizon * longest_step(V, decimals, INTEGER_DIGITS)
        rows = batch_series * variants
        check_generation(self.model, rows, length, -(-samples // variants), new_tokens, self.sampling.grammar)

    def rolling(
        self,
        series: SeriesSet,
        context: int,
        horizon: int,
        samples: int,
        reach: int,
        seed: int = 0,
        batch_series: int = 8,
        on_batch: Callable[[int], None] = lambda done: None,
    ) -> Forecast:
        """Forecasts that are longer than the windows which a model was trained on: `reach` steps at a time.

        Every sample goes on from its own last `context` steps: under the rule `context` with the scale of these, under
        another rule with that of the series. A value that was written 0.00 goes on as half of the last decimal.
        Raises JaxlvError as a call does, and for a `reach` that is not allowed. `on_batch(done)` hears how many forecasts
        of all are done, counted in series.
        """
        reach = argument(EvaluateConfig, "horizon", reach, "reach")
        horizon, samples, seed = checked(EvaluateConfig, horizon=horizon, samples=samples, seed=seed).values()
        check_forecasts(len(series), samples, horizon, len(series.variables))
        N, parts_in_all, rows = len(series), -(-horizon // reach), len(series) * samples
        variants = self.codec.variants
        variant_R = np.tile(np.arange(samples) % len(variants), N)  # R = N S rows: a sample of a series
        scales_RV = self._scales(series, context, variants)[np.repeat(np.arange(N), samples), variant_R]
        least_RV = 0.5 * scales_RV * 10.0**-self.codec.decimals

        def hear(part: int, each: int = 1) -> Callable[[int], None]:
            return lambda done: on_batch((part * N + done // each) // parts_in_all)

        length = min(reach, horizon)
        first = self(series, context, length, samples, seed, batch_series, hear(0))
        past_RTV, time_C = np.repeat(series.values_NTV[:, :context], samples, axis=0), series.time_T[:context]
        ids_R = (series.ids_N[:, None] * samples + np.arange(samples)).reshape(-1)
        parts, stops = [first.samples_NSHV], collections.Counter(first.stops)
        for part in range(1, parts_in_all):
            goes_on_R = np.isfinite(parts[-1][:, :, -1]).all(axis=-1).reshape(-1)  # a sample that broke off ends there
            fresh_RHV = np.maximum(parts[-1].reshape(rows, length, -1), least_RV[:, None])
            past_RTV = np.concatenate([past_RTV, fresh_RHV], axis=1)[:, -context:]
            length = min(reach, horizon - part * reach)
            part_RHV = np.full((rows, length, past_RTV.shape[2]), np.nan)
            if goes_on_R.any():
                chosen = replace(series, ids_N=ids_R[goes_on_R], values_NTV=past_RTV[goes_on_R], time_T=time_C)
                scales_NV = scales_RV[goes_on_R]
                if self.codec.scale == "context":
                    scales_NV = self._scales(chosen, context, variants)[np.arange(len(chosen)), variant_R[goes_on_R]]
                more = {"scales_NV": scales_NV, "on_batch": hear(part, samples)}
                seed_of = (seed + part) % (SEEDS + 1)
                following = self(chosen, context, length, 1, seed_of, batch_series * samples, **more)
                part_RHV[goes_on_R] = following.samples_NSHV[:, 0]
                stops.update(following.stops)
            parts.append(part_RHV.reshape(N, samples, length, -1))
        return replace(
            first,
            time_H=time_C[-1] + (first.time_H[0] - time_C[-1]) * np.arange(1, horizon + 1),
            samples_NSHV=np.concatenate(parts, axis=2),
            stops=dict(stops),
        )

    def generated(
        self, prompts: Sequence[np.ndarray], samples: int, new_tokens: int, *, grammar: Grammar | None = None, **options: Any
    ) -> Generated:
        """`generate` with this model and its sampling; with a meter it is reserved first, and paid as far as it ran."""
        width = padded(max(map(len, prompts)))
        shape = {"batch": len(prompts), "length": width, "samples": samples, **decoding(width, new_tokens)}
        head = "alphabet" if grammar else "frozen"  # without a grammar the logits are those of the whole vocabulary
        outputs = len(self.alphabet.ids_A) if grammar else self.model.config.vocab_size
        drawing = Drawing.of(self.sampling, outputs, len(self.alphabet.end_ids), options.get("steps") is not None)
        options = {"alphabet": self.alphabet, **options, "max_new_tokens": new_tokens, "grammar": grammar}
        check_shape(self.model, prompts, samples, new_tokens, grammar)  # before anything is reserved
        with self.spending("generation", **shape, head=head, drawing=drawing) as measured:
            result = generate(self.model, self.variables, prompts, samples, self.sampling, **options)
            measured["new_tokens"] = result.iterations
        return result

    def spending(self, kind: Kind, **shape: Any) -> contextlib.AbstractContextManager[dict[str, Any]]:
        """`Meter.spend` around work of this model; nothing is reserved where there is no meter."""
        return self.meter.spend(kind, **shape) if self.meter else contextlib.nullcontext({})

    def _text(self, values_TV, alpha_V, context: int, shown: int, where: str) -> tuple[str, str]:
        """The text of the context, and the characters shown of the step behind it: never all of them."""
        whole = self.codec.encode(values_TV[:context], alpha_V, where=where)
        step = self.codec.encode(values_TV[context : context + 1], alpha_V, where=where) if shown else ""
        return whole, step[: min(shown, len(step) - 1)] if shown else ""

    def _batch(
        self, prompts, opened, alphas, ids_M, keys_M, rows, size, digits, horizon, samples, seed
    ) -> list[list[Decoded]]:
        """The decoded samples of some rows; a short batch is filled with its first row, so that one shape is compiled."""
        filled = np.concatenate([rows, np.repeat(rows[:1], size - len(rows))])
        variables, decimals = len(alphas[0]), self.codec.decimals
        prompts_of, most = [prompts[row] for row in filled], horizon * longest_step(variables, decimals, digits)

        masked = number_grammar(variables, decimals, digits) if self.sampling.grammar else None
        names = [f"series {ids_M[row]}" for row in filled]
        more = {"series": keys_M[filled], "names": names, "steps": horizon, "grammar": masked}
        result = self.generated(prompts_of, samples, most, seed=seed, **more)
        return [
            [
                self.codec.decode(opened[row] + self.alphabet.decode(ids_C[:length]), alphas[row], horizon)
                for ids_C, length in zip(result.ids_SNC[i], result.lengths_SN[i], strict=True)
            ]
            for i, row in enumerate(rows)
        ]


def _digits(context_TV: np.ndarray, opened: str) -> int:
    """Digits before the point that a forecast may need, behind a context and what is shown of the next step."""
    shown = max(len(value.partition(".")[0]) for value in opened.split(","))
    return max(INTEGER_DIGITS, len(str(int(context_TV.max()))), shown)


def _padded(values_TV: np.ndarray, horizon: int) -> np.ndarray:
    return np.pad(values_TV, ((0, horizon - len(values_TV)), (0, 0)), constant_values=np.nan)
