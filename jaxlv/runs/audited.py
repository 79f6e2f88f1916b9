"""The programs that runs execute, for an audit: their train step, of one or of several runs side by side, and the rest of
their plan: validations, likelihoods, and generations from the prompt to the last token.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlv.config import RunConfig
from jaxlv.flops import plan, table, traffic
from jaxlv.flops.counting.hlo import count_hlo
from jaxlv.flops.events import Event
from jaxlv.flops.places import marked, placed, products
from jaxlv.flops.programs import Program, how_of_work, output_ids, shape, variables_of
from jaxlv.flops.subjects import Subject, of_pass, of_passes
from jaxlv.flops.targets import Target
from jaxlv.flops.work import Work
from jaxlv.forecasting.likelihood import token_nll
from jaxlv.lora import overlay
from jaxlv.model import placement
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from jaxlv.runs.billing import event_of
from jaxlv.steps import decode, generate
from jaxlv.steps.stack import Stack, program_of
from jaxlv.steps.train import make_validation_step
from jaxlv.text.codec import SYMBOLS
from jaxlv.text.grammar import guesses, number_grammar
from jaxlv.text.tokens import Windows

SIDE_BY_SIDE = {  # why the formulas of runs that train together are not exact, by component
    "rope": "its frequencies are computed once for all runs",
    "optimiser": "a schedule's constants are computed once for all runs; the peak of each learning rate is no constant",
}


def of_runs(
    configs: Sequence[RunConfig], model: ModelConfig, test_series: int, steps: int, logits: int = 0
) -> list[Subject]:
    """Returns the programs of runs that share a train step (jaxlv.steps.stack.program_of), on series of `steps` steps: the
    step of all, with so many `logits` at once, then the rest of each run's plan, every shape once.
    """
    settings = configs[0].model
    made = Qwen2(model, jnp.dtype(settings.dtype), settings.attention, weights=settings.weights)
    largest = max(config.lora.rank for config in configs)
    found, known = [_train_step(configs, made, largest, logits)], set()
    for config in configs:
        event = event_of(config, stack_rank=largest)
        for phase in plan.phases(config, event, test_series, steps):
            for one in phase.events:
                one = replace(_whole_stages(one), count=1, step=0)
                if one.kind != "train_step" and one.cached and one not in known:
                    known.add(one)
                    found.append(of_event(one, config, made))
    return found


def on_mesh(config: RunConfig, architecture: ModelConfig, mesh: Mesh, target: Target) -> traffic.Spread:
    """Returns the audit of a run's train step on a mesh of a target's devices, of one micro-batch a step."""
    config = replace(config, train=replace(config.train, accumulate=1))
    data, parts = mesh.devices.shape
    work = replace(event_of(config).work(architecture), over_data=data, over_model=parts)
    text = compiled_on_mesh(config, work, mesh, target).as_text()
    merged = target.platform == "cuda"
    found = placed(count_hlo(text).tallies)
    padded = marked(found, "dot padded")
    return traffic.compared(work, products(found), text, padded, fsdp=config.mesh.fsdp, merged=merged)


def compiled_on_mesh(config: RunConfig, work: Work, mesh: Mesh, target: Target) -> Any:
    """Returns a run's train step, compiled for a mesh of a target's devices; its work is of one micro-batch a step."""
    settings, architecture = config.model, work.model
    how: Any = {"weights": settings.weights, "mesh": mesh, "fsdp": config.mesh.fsdp}
    model = Qwen2(architecture, jnp.dtype(settings.dtype), settings.attention, **how)
    stack = _abstract_stack([config], model.clone(mesh=None), output_ids(work))
    stack.model = model
    where = placement.shardings((stack.state, stack.frozen), architecture, mesh, fsdp=config.mesh.fsdp)
    rows = NamedSharding(mesh, PartitionSpec(None, placement.DATA))
    windows = Windows(*(shape(1, work.batch, work.length) for _ in Windows._fields[:3]))
    arguments = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        (stack.state, stack.frozen, windows),
        (*where, jax.tree.map(lambda _: rows, windows)),
    )
    return stack.step().lower(*arguments).compile(compiler_options=target.options or None)


def groups(configs: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """Returns runs by the train step that they share, in the order in which the steps appear."""
    found: dict[str, list[RunConfig]] = {}
    for config in configs:
        found.setdefault(program_of(config), []).append(config)
    return list(found.values())


def _whole_stages(event: Event) -> Event:
    """Returns a generation that fills its stages, so that each of its loops has as many turns."""
    if event.kind != "generation" or not event.stage:
        return event
    each = 1 + event.ahead
    tail = -(-each * event.new_tokens // event.stage) * event.stage
    return replace(event, new_tokens=tail // each, slots=event.length + tail)


def _train_step(configs: Sequence[RunConfig], model: Qwen2, largest: int, logits: int) -> Subject:
    works = [event_of(config, stack_rank=largest).work(model.config) for config in configs]
    stack = _abstract_stack(configs, model, output_ids(works[0]), logits)
    one = (works[0].accumulate, works[0].batch, works[0].length)
    sizes = one if len(configs) == 1 else (len(configs), *one)
    windows = Windows(*(shape(*sizes) for _ in Windows._fields[:3]))
    program = Program("train_step", stack.step(), (stack.state, stack.frozen, windows))
    return of_passes(program, works, "train step", SIDE_BY_SIDE if len(configs) > 1 else None)


def _abstract_stack(configs: Sequence[RunConfig], model: Qwen2, alphabet_A: Any, logits: int = 0) -> Stack:
    """Returns runs of one program before their first step, as shapes and types."""
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))["params"]
    stacks: list[Stack] = []

    def begun(params: Any) -> Any:
        stacks.append(Stack(model, params, configs, alphabet_A, logits=logits))
        return stacks[-1].state, stacks[-1].frozen

    stack_of = jax.eval_shape(begun, params)
    stacks[-1].state, stacks[-1].frozen = stack_of
    return stacks[-1]


def of_event(event: Event, config: RunConfig, model: Qwen2) -> Subject:
    """Returns the program of a validation, a likelihood or a generation with the shapes of a ledger's event."""
    work = event.work(model.config)
    variables = variables_of(work, model)
    if event.kind == "generation":
        return _generation(event, work, config, model, variables)
    windows = Windows(*(shape(event.batch, event.length) for _ in Windows._fields[:3]))
    name = f"{event.batch} x {event.length} tokens{_adapted(event)}"
    if event.loss == "tokens":
        nll = functools.partial(_likelihood, model)
        return of_pass(Program(f"likelihood, {name}", nll, (variables, windows, shape(len(SYMBOLS)))), work, "loss")
    trained, frozen = overlay.split(variables, overlay.trainable(variables))
    step = make_validation_step(model, output_ids(work), how_of_work(work))
    return of_pass(Program(f"validation, {name}", step, (trained, frozen, windows)), work, "loss")


def _adapted(event: Event) -> str:
    return f", rank {event.rank}" if event.rank else ", without adapters"


def _likelihood(model: Qwen2, variables: Any, windows: Windows, alphabet_A: Any) -> Any:
    return token_nll(model, variables, windows, alphabet_A)


def _generation(event: Event, work: Work, config: RunConfig, model: Qwen2, variables: Any) -> Subject:
    prompts, rows, drawing = shape(event.batch, event.length), event.batch * event.samples, event.drawing
    grammar = None
    if event.head == "alphabet":
        automaton = number_grammar(2, config.codec.decimals, plan.DIGITS)
        tables = (*automaton, guesses(automaton))
        abstract: list[Any] = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in tables]
        grammar = decode.Automaton(*abstract)
    keys = jax.eval_shape(lambda: generate.row_keys(0, range(event.batch), event.samples))
    sampling = replace(config.sampling, temperature=0.0) if drawing.way == "greedy" else config.sampling
    how = decode.Decoding(event.samples, event.new_tokens, sampling, 4 if drawing.steps else None)
    loop = decode.Loop(event.new_tokens, event.ahead, event.stage)
    function = functools.partial(decode.whole, model=model, how=how.form, loop=loop, end_ids=tuple(range(drawing.ends)))
    limits = decode.Limits((shape(),) * len(loop.stages), shape(), shape() if drawing.steps else None)
    begun = decode.Rows(prompts, prompts, keys, shape(event.batch), limits)
    arguments = (variables, begun, grammar, shape(len(SYMBOLS)))
    free = "" if grammar else ", without the grammar"
    drawn = f"{event.new_tokens} turns of a token and a guess" if event.ahead else f"{event.new_tokens} tokens"
    name = f"generation, {rows} x {event.length} + {drawn}{free}{_adapted(event)}"
    shapes = {"slots": event.slots, "stage": event.stage, "samples": event.samples}

    def formula(convention: str) -> dict[tuple[str, str], int]:
        return table.generation_by_component(work, event.new_tokens, convention, **shapes)

    program = Program(name, function, arguments)
    return Subject(program, formula, trips=event.stage // (1 + event.ahead), narrow=event.dtype != "float32")
