"""Sampled forecasts of series: text prompts in, trajectories in raw units out.

Axes: N series, S samples, C context steps, H steps ahead, V variables.
"""

from __future__ import annotations

import collections
import contextlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from jaxlv.config import EvaluateConfig, SamplingConfig
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.flops.ledger import BudgetExceeded, Kind, Payer
from jaxlv.flops.work import Drawing
from jaxlv.forecasting.forecast import Forecast
from jaxlv.forecasting.made import Made
from jaxlv.forecasting.request import Request
from jaxlv.model.bases import may_read_gaps
from jaxlv.model.qwen2 import Qwen2
from jaxlv.settings import SEEDS, argument
from jaxlv.steps.decode import Decoding, Loop
from jaxlv.steps.generate import Generated, check_shape, decoding, generate, loop_of, room, turns_of
from jaxlv.steps.needs import check_forecasts, check_generation, even, together
from jaxlv.steps.prompts import Prompts, Reading, padded
from jaxlv.text.codec import Codec, Decoded
from jaxlv.text.grammar import Grammar, longest_step, number_grammar
from jaxlv.text.tokens import Alphabet

INTEGER_DIGITS = 2  # digits before the point that the grammar allows, or more where the context has more


@dataclass(frozen=True)
class Sampler:
    """A model with everything that turns series into forecasts: variables, alphabet, codec and sampling.

    With a `meter`, each batch is reserved in a ledger before it is generated. `gaps` says whether texts may hold gaps; if
    it is None, what the model's folder says of its training decides. Forecasters with other settings share what is `made`:
    prompts that one has read are not read again.
    """

    model: Qwen2
    variables: dict[str, Any]
    alphabet: Alphabet
    codec: Codec
    sampling: SamplingConfig
    meter: Payer | None = None
    gaps: bool | None = None
    made: Made = field(default_factory=Made, compare=False, repr=False)

    def with_sampling(self, **changes: Any) -> Sampler:
        """Returns the same forecaster with other sampling settings."""
        return replace(self, sampling=replace(self.sampling, **changes))

    def written(self, series: SeriesSet) -> Sequence[np.ndarray]:
        """Returns each series, (T, V), as its text has it: NaN where a value is marked as missing. A model that has read no
        gaps is given what stands there in their place.
        """
        return series.written if self.reads_gaps else series.each

    @property
    def reads_gaps(self) -> bool:
        """Whether its texts may hold gaps."""
        return may_read_gaps(self.model.folder) if self.gaps is None else self.gaps

    def scales(self, series: SeriesSet, context: int) -> np.ndarray:
        """Returns raw units per written unit of each series and variable, by the codec's rule and `headroom`: (N, V)."""
        return self._scales(series, context, (self.codec,))[:, 0]

    def _scales(self, series: SeriesSet, context: int, variants: Sequence[Codec]) -> np.ndarray:
        """The same by each of R codecs: (N, R, V)."""
        rows = zip(series.ids_N, series.each, context - series.first_N, strict=True)
        return np.array([[one.fit(v_TV[:steps], v_TV, f"series {i}") for one in variants] for i, v_TV, steps in rows])

    def __call__(
        self,
        series: SeriesSet,
        request: Request,
        *,
        on_batch: Callable[[int], None] = lambda done: None,
        scales_NV: np.ndarray | None = None,
    ) -> Forecast:
        """Returns forecasts of each series, given the steps before.

        The samples take the codec's head-rooms in turn. `scales_NV` are raw units per written unit, by default what the
        codec's rule gives. Raises JaxlvError if the context is longer than the series, or if the forecasts do not fit in
        memory. Calls `on_batch(series done)`.
        """
        steps, context = series.values_NTV.shape[1], request.context
        least = int(series.first_N.max()) + 1
        if not least <= context <= steps - request.skipped:
            expected = f"{least} to {steps - request.skipped} steps"
            raise JaxlvError("the context does not fit the series", expected=expected, found=context)
        self.check_fits(series, request)
        variants = self.codec.variants[: request.samples] if scales_NV is None else (self.codec,)
        R, each = len(variants), -(-request.samples // len(variants))
        if scales_NV is None:
            scales_NV = self._scales(series, context, variants).reshape(len(series) * R, -1)
        rows = self._rows(series, request, scales_NV)
        decoded: dict[int, list[Decoded]] = {}
        for digits in sorted(set(rows.digits_M)):  # rows of one grammar together
            group = np.flatnonzero(np.equal(rows.digits_M, digits))
            size = self._size(rows, group, request, each, R)
            for some in np.split(group, range(size, len(group), size)):
                decoded |= dict(zip(some.tolist(), self._batch(rows, some, request, each, size), strict=True))
                on_batch(len(decoded) // R)
        drawn = [[decoded[row * R + s % R][s // R] for s in range(request.samples)] for row in range(len(series))]
        samples = [[_padded(d.values_TV[request.skipped :], request.horizon) for d in row] for row in drawn]
        stops = dict(collections.Counter(d.stop for row in drawn for d in row))
        return Forecast.of(series, request.start, np.array(samples), stops, context)

    def check_fits(self, series: SeriesSet, request: Request) -> None:
        """Raises JaxlvError if forecasts do not fit in memory."""
        V, decimals, variants = len(series.variables), self.codec.decimals, len(self.codec.variants[: request.samples])
        check_forecasts(len(series), request.samples, request.drawn, V)
        length, new_tokens = request.context * V * (decimals + 3), request.drawn * longest_step(V, decimals, INTEGER_DIGITS)
        each, prompts = -(-request.samples // variants), max(1, request.batch * variants)
        check_generation(self.model, prompts, length, each, new_tokens, self.sampling.grammar)

    def rolling(
        self, series: SeriesSet, request: Request, reach: int, *, on_batch: Callable[[int], None] = lambda done: None
    ) -> Forecast:
        """Returns forecasts longer than the windows that a model was trained on: `reach` steps at a time.

        Every sample is continued from its own last `context` steps. Under the rule `context` these steps give the scale;
        under another rule the scale of the series is kept. A value that was written as 0.00 is continued as half a unit of
        the last decimal. Raises JaxlvError as a call does, if `reach` is not allowed, or if part of a step is shown. Calls
        `on_batch` with the number of forecasts that are done, counted in series.
        """
        reach = argument(EvaluateConfig, "horizon", reach, "reach")
        if request.shown:
            raise JaxlvError("a forecast that continues itself needs whole steps", where="shown", found=request.shown)
        context, horizon, samples = request.context, request.horizon, request.samples
        check_forecasts(len(series), samples, horizon, len(series.variables))
        N, parts_in_all, rows = len(series), -(-horizon // reach), len(series) * samples
        variants = self.codec.variants
        variant_R = np.tile(np.arange(samples) % len(variants), N)  # R = N S rows: a sample of a series
        scales_RV = self._scales(series, context, variants)[np.repeat(np.arange(N), samples), variant_R]
        least_RV = 0.5 * scales_RV * 10.0**-self.codec.decimals

        def hear(part: int, each: int = 1) -> Callable[[int], None]:
            return lambda done: on_batch((part * N + done // each) // parts_in_all)

        length = min(reach, horizon)
        first = self(series, replace(request, horizon=length), on_batch=hear(0))
        past_RTV, time_C = np.repeat(series.values_NTV[:, :context], samples, axis=0), series.time_T[:context]
        gaps_RTV = np.zeros(past_RTV.shape, bool)
        if series.missing_NTV is not None:
            gaps_RTV |= np.repeat(series.missing_NTV[:, :context], samples, axis=0)
        ids_R = (series.ids_N[:, None] * samples + np.arange(samples)).reshape(-1)
        parts, stops = [first.samples_NSHV], collections.Counter(first.stops)
        for part in range(1, parts_in_all):
            goes_on_R = np.isfinite(parts[-1][:, :, -1]).all(axis=-1).reshape(-1)  # samples that broke off are not continued
            fresh_RHV = np.maximum(parts[-1].reshape(rows, length, -1), least_RV[:, None])
            past_RTV = np.concatenate([past_RTV, fresh_RHV], axis=1)[:, -context:]
            gaps_RTV = np.concatenate([gaps_RTV, np.zeros(fresh_RHV.shape, bool)], axis=1)[:, -context:]
            length = min(reach, horizon - part * reach)
            part_RHV = np.full((rows, length, past_RTV.shape[2]), np.nan)
            if goes_on_R.any():
                again = series.rows(np.repeat(np.arange(N), samples)[goes_on_R], ids_R[goes_on_R])
                first_N = np.zeros(len(again), int) if part else again.first_N
                missing_RTV = gaps_RTV[goes_on_R] if gaps_RTV.any() else None
                own = {"values_NTV": past_RTV[goes_on_R], "missing_NTV": missing_RTV, "first_N": first_N}
                chosen = replace(again, time_T=time_C, **own)
                scales_NV = scales_RV[goes_on_R]
                if self.codec.scale == "context":
                    scales_NV = self._scales(chosen, context, variants)[np.arange(len(chosen)), variant_R[goes_on_R]]
                seed = (request.seed + part) % (SEEDS + 1)
                more = replace(request, horizon=length, samples=1, seed=seed, batch=request.batch * samples)
                following = self(chosen, more, scales_NV=scales_NV, on_batch=hear(part, samples))
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
        self,
        prompts: Prompts,
        samples: int,
        new_tokens: int,
        *,
        steps: int | None = None,
        seed: int = 0,
        grammar: Grammar | None = None,
        alphabet: Alphabet | None = None,
    ) -> Generated:
        """Calls `generate` with this model and its sampling. A meter reserves the work first, and pays for what ran; prompts
        that need not be read cost nothing (jaxlv.steps.prompts).

        `alphabet` replaces the forecaster's, for texts that end with other tokens. What a budget does not hold with guesses
        is drawn without them, which takes fewer FLOPs: the tokens are the same.
        """
        how, alphabet = Decoding(samples, new_tokens, self.sampling, steps), alphabet or self.alphabet
        width, rows = padded(max(map(len, prompts.ids))), len(prompts.ids) * samples
        head = "alphabet" if grammar else "frozen"  # without a grammar the logits are those of the whole vocabulary
        outputs = len(self.alphabet.ids_A) if grammar else self.model.config.vocab_size
        drawing = Drawing.of(self.sampling, outputs, len(self.alphabet.end_ids), steps is not None)
        check_shape(self.model, prompts.ids, how, grammar)  # before anything is reserved
        asked_A = np.asarray(alphabet.ids_A) if grammar else None
        reading = Reading.of(self.model, self._merged, prompts, asked_A, self.made.prefixes)
        prompts = replace(prompts, reading=reading)
        batch = sum(len(part.rows) for part in reading.parts)
        shape: dict[str, Any] = {"batch": batch, "length": width, "samples": samples, **reading.saved}
        shape |= {"head": head, "drawing": drawing}
        loops = dict.fromkeys([loop_of(new_tokens, rows, grammar), loop_of(new_tokens, rows, None)])
        most = [(loop, decoding(width, loop, turns_of(loop, new_tokens, grammar))) for loop in loops]
        with self._held(most, shape) as (loop, measured):
            result = generate(self.model, self._merged, prompts, alphabet, how, seed, grammar, loop)
            measured["new_tokens"] = result.iterations
        return result

    @contextlib.contextmanager
    def _held(
        self, most: Sequence[tuple[Loop, dict[str, Any]]], shape: dict[str, Any]
    ) -> Iterator[tuple[Loop, dict[str, Any]]]:
        """Reserves a generation by the first of several loops, each with what it runs at most, that the budget holds; yields
        the loop, and what `spending` does. Raises BudgetExceeded if it holds none.
        """
        (loop, longest), *others = most
        with contextlib.ExitStack() as stack:
            try:
                measured = stack.enter_context(self.spending("generation", **shape, **longest))
            except BudgetExceeded:
                if not others:
                    raise
                loop, measured = stack.enter_context(self._held(others, shape))
            yield loop, measured

    @property
    def _merged(self) -> dict[str, Any]:
        """The variables, with the adapters in the weights if that loses nothing. A meter pays for adapters, so it has them
        run: who holds a budget merges before (jaxlv.runs.run.decoder).
        """
        return self.variables if self.meter else self.made.merged(self.variables)

    def spending(self, kind: Kind, **shape: Any) -> contextlib.AbstractContextManager[dict[str, Any]]:
        """Returns `Meter.spend` around work of this model, or a context that reserves nothing if the model has no meter."""
        return self.meter.spend(kind, **shape) if self.meter else contextlib.nullcontext({})

    def _rows(self, series: SeriesSet, request: Request, scales_MV: np.ndarray) -> _Rows:
        """Returns the prompts of each series under each of its scales, series after series."""
        R = len(scales_MV) // len(series)
        given = [
            _Row(f"series {i}", values_TV, scales_MV[n * R + r], request.context - first, written_TV)
            for n, (i, values_TV, written_TV, first) in enumerate(
                zip(series.ids_N, series.each, self.written(series), series.first_N, strict=True)
            )
            for r in range(R)
        ]
        texts = [self._text(row, request) for row in given]
        return _Rows(
            names=[row.name for row in given],
            keys_M=np.repeat(_keys(series.ids_N), R) * R + np.tile(np.arange(R), len(series)),
            scales_MV=scales_MV,
            prompts=[self.alphabet.encode(whole + part) for whole, part in texts],
            opened=[part for _, part in texts],
            digits_M=[
                _digits(row.values_TV[: row.context] / row.alpha_V, part)
                for row, (_, part) in zip(given, texts, strict=True)
            ],
        )

    def _text(self, row: _Row, request: Request) -> tuple[str, str]:
        """Returns the text of the context, and the characters shown of the next step: never all of them."""
        context, shown = row.context, request.shown
        whole = self.codec.encode(row.written_TV[:context], row.alpha_V, where=row.name, gaps=True)
        step = self.codec.encode(row.values_TV[context : context + 1], row.alpha_V, where=row.name) if shown else ""
        return whole, step[: min(shown, len(step) - 1)] if shown else ""

    def _size(self, rows: _Rows, group: np.ndarray, request: Request, samples: int, variants: int) -> int:
        """Returns how many prompts of a group are decoded together."""
        if request.batch:
            return request.batch * variants
        length = padded(max(len(rows.prompts[i]) for i in group))
        most = request.drawn * longest_step(rows.scales_MV.shape[1], self.codec.decimals, rows.digits_M[group[0]])
        limit = together(self.model, len(group), length, samples, room(most), self.sampling.grammar)
        return even(len(group), limit)[0]

    def _batch(self, rows: _Rows, some: np.ndarray, request: Request, samples: int, size: int) -> list[list[Decoded]]:
        """Returns the decoded samples of some rows; a short batch is filled with its first row: one shape is compiled."""
        filled = np.concatenate([some, np.repeat(some[:1], size - len(some))])
        form = (rows.scales_MV.shape[1], self.codec.decimals, rows.digits_M[some[0]])
        masked = number_grammar(*form) if self.sampling.grammar else None
        prompts = Prompts([rows.prompts[i] for i in filled], rows.keys_M[filled], [rows.names[i] for i in filled])
        most, steps = request.drawn * longest_step(*form), request.drawn
        result = self.generated(prompts, samples, most, steps=steps, seed=request.seed, grammar=masked)
        return [
            [
                self.codec.decode(rows.opened[i] + self.alphabet.decode(ids_C[:length]), rows.scales_MV[i], steps)
                for ids_C, length in zip(ids_NC, lengths_N, strict=True)
            ]
            for i, ids_NC, lengths_N in zip(some, result.ids_SNC, result.lengths_SN, strict=False)
        ]


class _Row(NamedTuple):
    """A series under one scale: all its steps, and how many of them are the context."""

    name: str
    values_TV: np.ndarray
    alpha_V: np.ndarray
    context: int
    written_TV: np.ndarray  # the same values, NaN if the text marks one as missing


def _keys(ids_N: np.ndarray) -> np.ndarray:
    """Returns a whole number for each id, from which its random numbers follow: of a text its CRC-32, halved."""
    if ids_N.dtype.kind != "U":
        return ids_N
    return np.array([zlib.crc32(one.encode()) >> 8 for one in ids_N.tolist()], np.int64)


@dataclass(frozen=True)
class _Rows:
    """M prompts: one for each series and each of its scales."""

    names: list[str]
    keys_M: np.ndarray  # determine the random numbers of each prompt's samples
    scales_MV: np.ndarray
    prompts: list[np.ndarray]
    opened: list[str]  # what is shown of the step after the context
    digits_M: list[int]  # digits before the point that a forecast may need


def _digits(context_TV: np.ndarray, opened: str) -> int:
    """Returns how many digits before the point a forecast may need, given the context and what is shown of the next step."""
    shown = max(len(value.partition(".")[0]) for value in opened.split(","))
    return max(INTEGER_DIGITS, len(str(int(context_TV.max()))), shown)


def _padded(values_TV: np.ndarray, horizon: int) -> np.ndarray:
    return np.pad(values_TV, ((0, horizon - len(values_TV)), (0, 0)), constant_values=np.nan)
