"""What a run's config will cost, before it starts: each phase under each convention, and the steps that a budget buys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxlv.config import ModelConfig, RunConfig
from jaxlv.generate import decoding, padded
from jaxlv.grammar import longest_step
from jaxlv.ledger import Event

DIGITS = 2  # before the point, as forecasts allow


@dataclass(frozen=True)
class Planned:
    """A phase of a run: its name and the events that it consists of."""

    name: str
    events: tuple[Event, ...]

    def flops(self, model: ModelConfig, convention: str) -> int:
        """Its price."""
        return sum(event.flops(model, convention) for event in self.events)


def phases(config: RunConfig, step: Event, test_series: int, steps: int, variables: int = 2) -> list[Planned]:
    """The phases of a run of `steps`-step series: training, validation, and the final evaluation with and without a cache.

    `step` is an event of the config's model (jaxlv.run.event_of). Generations are priced at their longest, as a ledger
    reserves them. The evaluation draws its samples from the tuned and from the untuned model.
    """
    t, e = config.train, config.evaluate
    times = 0 if not t.validate_every else t.steps // t.validate_every + (t.steps % t.validate_every > 0)
    batches = -(-t.validation_windows // t.batch_size)
    horizon = min(e.horizon, steps - e.context)
    prompt = padded(e.context * variables * (config.codec.decimals + 3))
    most = horizon * longest_step(variables, config.codec.decimals, DIGITS)
    head, loop = "alphabet" if config.sampling.grammar else step.head, decoding(prompt, most)
    call = replace(step, kind="generation", accumulate=1, head=head, batch=e.batch_series, length=prompt, samples=e.samples)
    draw = replace(call, **loop, count=-(-test_series // e.batch_series))
    bare = replace(draw, rank=0, targets=())
    found = [
        Planned(f"training, {t.steps} steps", (replace(step, count=t.steps),)),
        Planned(f"{times} validations", (replace(step, kind="validation", accumulate=1, count=times * batches),)),
    ]
    if t.forecast_series and times:
        greedy = replace(draw, batch=t.forecast_series, samples=1, count=times)
        found.append(Planned(f"{times} validation forecasts", (greedy,)))
    text = padded((e.context + horizon) * variables * (config.codec.decimals + 3))
    read = replace(call, kind="validation", head="alphabet", length=text, samples=1, count=draw.count)
    likelihood = (read, replace(read, rank=0, targets=()))
    found.append(Planned(f"likelihood of {test_series} series, tuned and untuned", likelihood))
    found.append(Planned(f"evaluation, {test_series} series x {e.samples} samples, tuned and untuned", (draw, bare)))
    if config.sampling.grammar and e.unmasked_samples:
        free = tuple(replace(event, samples=e.unmasked_samples, head=step.head) for event in (draw, bare))
        found.append(Planned(f"the same, {e.unmasked_samples} samples without the grammar", free))
    slow = tuple(replace(event, cached=False) for event in (draw, bare))
    return [*found, Planned("the evaluation without a cache (not run)", slow)]


def steps_bought(step: Event, model: ModelConfig, conventions: Sequence[str], budget: float) -> dict[str, int]:
    """{convention: train steps that the budget buys}, and nothing else."""
    return {name: int(budget // step.flops(model, name)) for name in conventions}
