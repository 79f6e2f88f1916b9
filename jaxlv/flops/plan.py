"""What a run's config will cost, before it starts: each phase under each convention, and the steps that a budget buys."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from jaxlv.config import RunConfig
from jaxlv.errors import JaxlvError, briefly
from jaxlv.flops.ledger import Event
from jaxlv.flops.work import Drawing
from jaxlv.model.config import ModelConfig
from jaxlv.steps.generate import decoding, loop_of, turns_of
from jaxlv.steps.needs import planned
from jaxlv.steps.prompts import padded
from jaxlv.storage.files import read_json
from jaxlv.text.codec import SYMBOLS
from jaxlv.text.grammar import longest_step, number_grammar

DIGITS = 2  # before the point, as forecasts allow
LARGE = 1 << 30  # more tokens than a vocabulary has


@dataclass(frozen=True)
class Planned:
    """A phase of a run: its name and its events."""

    name: str
    events: tuple[Event, ...]

    def flops(self, model: ModelConfig, convention: str) -> int:
        """Returns its price."""
        return sum(event.flops(model, convention) for event in self.events)


def drawing(
    config: RunConfig, step: Event, context: int, horizon: int, samples: int, batch: int, variables: int = 2
) -> Event:
    """Returns a batch of forecasts of `batch` series, at its longest, with guesses if they pay on this device; `step` is an
    event of the model (jaxlv.runs.run.event_of).
    """
    form = variables, config.codec.decimals, DIGITS
    prompt = padded(context * variables * (config.codec.decimals + 3))
    grammar = number_grammar(*form) if config.sampling.grammar else None
    tokens = horizon * longest_step(*form)
    loop = loop_of(tokens, batch * samples, grammar)
    head = "alphabet" if grammar else step.head
    shape: dict[str, Any] = {"batch": batch, "length": prompt, "samples": samples}
    shape |= decoding(prompt, loop, turns_of(loop, tokens, grammar))
    outputs = len(SYMBOLS) if grammar else LARGE
    return step.of_kind("generation", head=head, drawing=Drawing.of(config.sampling, outputs, 1, steps=True), **shape)


def validation(config: RunConfig, step: Event, steps: int, variables: int = 2) -> tuple[Event, ...]:
    """Returns one validation of a run of `steps`-step series: the windows, and the forecasts if it makes any."""
    t, e = config.train, config.evaluate
    read = step.of_kind("validation", count=-(-t.validation_windows // t.batch_size))
    if not t.forecast_series:
        return (read,)
    context = t.forecast_context or e.context
    horizon = min(t.forecast_horizon or e.horizon, steps - context)
    greedy = replace(config, sampling=replace(config.sampling, temperature=0.0))  # as jaxlv.runs.validation forecasts
    return read, drawing(greedy, step, context, horizon, 1, t.forecast_series, variables)


def training(config: RunConfig, step: Event, steps: int, variables: int = 2) -> list[Planned]:
    """Returns the training of a run of `steps`-step series and its validations."""
    t = config.train
    times = 0 if not t.validate_every else t.steps // t.validate_every + (t.steps % t.validate_every > 0)
    found = [Planned(f"training, {t.steps} steps", (replace(step, count=t.steps),))]
    words = (f"{times} validations", f"{times} validation forecasts")
    events = validation(config, step, steps, variables)
    for name, event in zip(words, events if times else events[:1], strict=False):
        found.append(Planned(name, (replace(event, count=times * event.count),)))
    return found


def phases(config: RunConfig, step: Event, test_series: int, steps: int, variables: int = 2) -> list[Planned]:
    """Returns the phases of a run of `steps`-step series: training, validation, and the final evaluation with and without a
    cache.

    `step` is an event of the config's model (jaxlv.runs.run.event_of). Generations are priced at their longest, as a ledger
    reserves them. The evaluation draws its samples from the tuned and from the untuned model.
    """
    e = config.evaluate
    horizon = min(e.horizon, steps - e.context)
    size, count = planned(test_series, e.batch_series)

    def drawn(config: RunConfig, samples: int) -> tuple[Event, Event]:
        tuned = replace(drawing(config, step, e.context, horizon, samples, size, variables), count=count)
        return tuned, replace(tuned, rank=0, targets=())

    draw, bare = drawn(config, e.samples)
    found = training(config, step, steps, variables)
    text = padded((e.context + horizon) * variables * (config.codec.decimals + 3))
    shape: dict[str, Any] = {"length": text, "samples": 1, "new_tokens": 0, "slots": 0, "stage": 0}
    shape |= {"batch": e.read_together, "count": -(-test_series // e.read_together)}
    read = draw.of_kind("validation", head="alphabet", loss="tokens", **shape)
    likelihood = (read, replace(read, rank=0, targets=()))
    found.append(Planned(f"likelihood of {test_series} series, tuned and untuned", likelihood))
    found.append(Planned(f"evaluation, {test_series} series x {e.samples} samples, tuned and untuned", (draw, bare)))
    if config.sampling.grammar and e.unmasked_samples:
        free = drawn(replace(config, sampling=replace(config.sampling, grammar=False)), e.unmasked_samples)
        found.append(Planned(f"the same, {e.unmasked_samples} samples without the grammar", free))
    tokens = horizon * longest_step(variables, config.codec.decimals, DIGITS)
    slow = tuple(replace(event, cached=False, new_tokens=tokens, ahead=0) for event in (draw, bare))
    return [*found, Planned("the evaluation without a cache (not run)", slow)]


def steps_bought(step: Event, model: ModelConfig, conventions: Sequence[str], budget: float) -> dict[str, int]:
    """Returns {convention: train steps that the whole budget buys}."""
    return {name: int(budget // step.flops(model, name)) for name in conventions}


class Pace(NamedTuple):
    """How fast a device computes: FLOP/s as executed, and where that was measured, in words."""

    rate: float
    origin: str


def measured_rate(path: Path, flops: int, alphabet: bool) -> Pace:
    """Returns the pace of the train step in a result of benchmarks.train_step that is nearest in size to one of `flops`.

    `alphabet` says whether its loss is over the 13 symbols alone. Raises JaxlvError if the file is not such a result.
    """
    try:
        result = read_json(path)
        sides = [
            (f"{row['shape']} {row['work']}", side["flops"], statistics.median(side["seconds"]))
            for row in result["rows"]
            for name, side in row["sides"].items()
            if "flops" in side and ("symbols" in name) == alphabet
        ]
        case, size, seconds = min(sides, key=lambda side: abs(math.log(side[1] / flops)))
        machine, dtype = result["machine"], result["settings"]["dtype"]
        device = machine["cpu"] if result["settings"]["device"] == "cpu" else machine["accelerator"]
        if not 0 < size / seconds < math.inf:
            raise ValueError(f"a rate of {size / seconds} FLOP/s")
        return Pace(size / seconds, f"{device} ({case}, {dtype})")
    except (ArithmeticError, AttributeError, ValueError, KeyError, TypeError, JaxlvError) as fault:
        what = f"no result of benchmarks.train_step ({briefly(fault)})"
        raise JaxlvError(what, where=path, hint="make one with python -m benchmarks.train_step") from None
