"""The settings of a run as frozen dataclasses, read from TOML."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxlv.errors import JaxlvError

Dtype = Literal["float32", "bfloat16"]
Kernel = Literal["xla", "blocked", "cudnn"]
SINKS = ("tensorboard", "wandb", "mlflow")
LARGEST_CONFIG = 1 << 20  # bytes of a config file
MOST_EXTENDED = 20  # config files that extend each other
DEEPEST = 20  # levels of sections and lists
GRID = "grid"  # the section of a config that `jaxlv sweep` reads
STAGE = "stage"  # and the one that tells `jaxlv reproduce` what a stage is; a sweep takes its `skip`


@dataclass(frozen=True)
class DataConfig:
    """Which series, and how they are split."""

    path: str = ""  # HDF5, CSV or NumPy file; "" = simulate `preset`
    preset: str = "course"  # simulator preset used where path is empty
    simulate: int = 1000  # number of series to simulate
    seed: int = 42  # of the simulation and of the split
    split: Literal["fractions", "xu", "rai", "mao", "liu"] = "fractions"  # by the fractions below, or as a report has it
    fractions: tuple[float, ...] = (0.70, 0.15, 0.15)  # train, validation, test
    bad_series: Literal["error", "drop"] = (
        "error"  # with NaN, infinite or negative values: refuse the file, or leave them out
    )
    train_share: float = 1.0  # of the training series that are used: the first of the split's order
    stratify: bool = False  # split within regimes
    train_ids: tuple[int, ...] = ()  # explicit ids; given for one share, they must be given for all three
    validation_ids: tuple[int, ...] = ()
    test_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.train_share <= 1:
            raise JaxlvError("must be in (0, 1]", where="data.train_share", found=self.train_share)


@dataclass(frozen=True)
class CodecConfig:
    """How numbers become text."""

    scale: str = "context"  # context | xu | rai | mao | liu
    headroom: float = 0.5  # share of the range left free above the context's maximum (scale = "context")
    headrooms: tuple[float, ...] = ()  # several: training windows draw one each, and samples are shared out among them
    decimals: int = 2
    parsing: Literal["steps", "position"] = "steps"  # position: a report's error, by which a lost delimiter shifts the rest


@dataclass(frozen=True)
class WindowConfig:
    """How a series' tokens become training windows."""

    length: int = 512  # tokens
    stride: int = 256  # tokens between window starts
    align: Literal["step", "token"] = "step"  # move starts forward to the next time step, or cut anywhere
    partial: Literal["drop", "pad"] = "pad"  # the last, shorter window of a series
    side: Literal["right", "left"] = "right"  # of the padding; positions make both give the same logits
    pads: Literal["ignored", "counted"] = "ignored"  # counted: an error of two reports, padding that is seen and predicted
    context_steps: tuple[int, ...] = (20, 80)  # the training scale is fitted on a context drawn from this range

    def __post_init__(self) -> None:
        for name, least in (("length", 2), ("stride", 1)):
            if getattr(self, name) < least:
                raise JaxlvError(f"must be at least {least}", where=f"windows.{name}", found=getattr(self, name))
        if len(self.context_steps) != 2 or not 1 <= self.context_steps[0] <= self.context_steps[1]:
            expected = "[least, most] steps, 1 or more"
            raise JaxlvError("not a range", where="windows.context_steps", expected=expected, found=list(self.context_steps))
        if self.pads == "counted" and self.side == "left":
            raise JaxlvError('needs windows.side = "right"', where='windows.pads = "counted"', found="left")


@dataclass(frozen=True)
class LoraConfig:
    """Which low-rank paths are laid over the base, and what else trains."""

    rank: int = 4
    alpha: float = 0.0  # 0 = rank, as in the assignment
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    dropout: float = 0.0
    rslora: bool = False  # scale alpha / sqrt(rank) instead of alpha / rank
    head: Literal["frozen", "bias", "full"] = "bias"  # what of the LM head trains beside A and B
    init: str = ""  # folder of an adapter in PEFT's format to begin from; "" = A at random, B zero

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise JaxlvError("must be at least 1", where="lora.rank", found=self.rank)
        if not 0 <= self.dropout < 1:
            raise JaxlvError("must be in [0, 1)", where="lora.dropout", found=self.dropout)

    @property
    def scaling(self) -> float:
        """The factor on BA x: alpha / rank, or alpha / sqrt(rank) for rsLoRA."""
        alpha = self.alpha or float(self.rank)
        return alpha / self.rank**0.5 if self.rslora else alpha / self.rank


@dataclass(frozen=True)
class ModelSettings:
    """Which base, and how it computes."""

    path: str = "embedded"  # a Hugging Face folder, a hub id, or "embedded"
    revision: str = ""  # of a hub id: a commit, tag or branch; "" = the newest
    dtype: Dtype = "float32"  # of the frozen weights and the matrix products
    attention: Kernel = "xla"  # blocked: XLA, without the scores that the mask hides
    loss: Literal["vocabulary", "alphabet"] = "vocabulary"  # cross-entropy over all tokens or the 13 symbols
    deterministic: bool = False  # on a GPU: the same bits from run to run, more slowly; a CPU gives them anyway


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser and its schedule."""

    name: Literal["adam", "adamw", "muon"] = "adam"  # muon: matrices by Muon, vectors by AdamW
    learning_rate: float = 1e-5
    schedule: Literal["constant", "cosine", "onecycle"] = "constant"
    warmup_steps: int = 0
    final_fraction: float = 0.0  # learning rate at the end, as a share of the peak (cosine)
    weight_decay: float = 0.0  # adamw and muon; on matrices, never on biases
    vector_rate: float = 1.0  # muon only: the learning rate of vectors, as a share of the matrices'
    clip_norm: float = 0.0  # 0 = no clipping
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise JaxlvError("must be positive", where="optimizer.learning_rate", found=self.learning_rate)
        if self.weight_decay and self.name == "adam":
            raise JaxlvError('needs optimizer.name = "adamw" or "muon"', where="optimizer.weight_decay", found="adam")


@dataclass(frozen=True)
class TrainConfig:
    """How long, how often, how many at once."""

    steps: int = 1000  # optimiser steps
    batch_size: int = 4  # windows per micro-batch
    accumulate: int = 1  # micro-batches per optimiser step
    seed: int = 0  # of the adapters, the order of windows, dropout
    log_every: int = 10
    validate_every: int = 200  # steps; 0 = never
    validation_windows: int = 64  # at most
    forecast_series: int = 8  # validation series forecast at each validation; 0 = none
    forecast_context: int = 0  # time steps that these are given; 0 = the evaluation's
    forecast_horizon: int = 0  # time steps that they forecast; 0 = the evaluation's
    mean: Literal["tokens", "examples"] = "tokens"  # examples: a report's error, batch means over the number of windows
    checkpoint_every: int = 200
    select: Literal["loss", "forecast"] = "loss"  # what "best" means
    sinks: tuple[str, ...] = ()  # where metrics go beside metrics.jsonl: tensorboard, wandb, mlflow
    skip_nonfinite: int = 0  # steps that are skipped where loss or gradient is not finite; the next one ends the run
    halve_on_oom: bool = False  # out of memory: half the batch, accumulated twice as often, instead of an end

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise JaxlvError("must be at least 1", where=f"train.{name}", found=getattr(self, name))
        for name in self.sinks:
            if name not in SINKS:
                raise JaxlvError("unknown sink", where="train.sinks", expected=", ".join(SINKS), found=name)
        if self.skip_nonfinite < 0:
            raise JaxlvError("must not be negative", where="train.skip_nonfinite", found=self.skip_nonfinite)
        if self.select == "forecast" and not self.forecast_series:
            raise JaxlvError("needs train.forecast_series > 0", where='train.select = "forecast"')


@dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn; Qwen's own generation defaults are never applied behind the user's back."""

    temperature: float = 1.0  # 0 = greedy
    top_k: int = 0  # 0 = all
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    grammar: bool = True  # mask the logits so that every sample parses

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise JaxlvError("must be 0 (greedy) or positive", where="sampling.temperature", found=self.temperature)
        if not 0 < self.top_p <= 1:
            raise JaxlvError("must be in (0, 1]", where="sampling.top_p", found=self.top_p)
        if self.top_k < 0:
            raise JaxlvError("must be 0 (all) or positive", where="sampling.top_k", found=self.top_k)
        if self.repetition_penalty <= 0:
            raise JaxlvError("must be positive", where="sampling.repetition_penalty", found=self.repetition_penalty)


@dataclass(frozen=True)
class EvaluateConfig:
    """The protocol of forecasts and their measures."""

    context: int = 50  # time steps given
    horizon: int = 50  # time steps forecast
    samples: int = 20  # trajectories per series
    series: int = 0  # at most this many test series; 0 = all
    seed: int = 0
    batch_series: int = 8  # series decoded together
    unmasked_samples: int = 4  # samples per series drawn without the grammar, to count how many parse; 0 = none

    def __post_init__(self) -> None:
        for name in ("context", "horizon", "samples", "batch_series"):
            if getattr(self, name) < 1:
                raise JaxlvError("must be at least 1", where=f"evaluate.{name}", found=getattr(self, name))
        if self.unmasked_samples < 0:
            raise JaxlvError("must not be negative", where="evaluate.unmasked_samples", found=self.unmasked_samples)


@dataclass(frozen=True)
class BudgetConfig:
    """A FLOP budget, kept in a ledger; what does not fit is not run."""

    flops: float = 0.0  # 0 = no budget
    convention: str = "exact"  # what a FLOP is: a name of jaxlv.flops.CONVENTIONS
    held_back: float = 0.0  # FLOPs kept for the evaluation
    phase: str = "final"  # what this run is part of
    phases: dict = field(default_factory=dict)  # FLOPs that each phase may spend, by name
    ledger: str = ""  # file that several runs share, seen from the run folder; "" = ledger.jsonl in it

    def __post_init__(self) -> None:
        if self.flops < 0:
            raise JaxlvError("must not be negative", where="budget.flops", found=self.flops)
        for name, value in self.phases.items():
            if not isinstance(value, (int, float)) or value < 0:
                raise JaxlvError("must be a number of FLOPs", where=f"budget.phases.{name}", found=repr(value))


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines a run; `jaxlv train` saves it resolved as config.toml in the run folder."""

    data: DataConfig = field(default_factory=DataConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    model: ModelSettings = field(default_factory=ModelSettings)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)


# ------------------------------------------------------------------------------------------------ reading


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run that a TOML file describes: defaults < what it extends < file < `overrides` ("section.key=value" in TOML)."""
    tree = read_tree(Path(path))
    if GRID in tree:
        raise JaxlvError("a grid of runs, not one run", where=path, found=f"[{GRID}]", hint="use jaxlv sweep")
    if STAGE in tree:
        raise JaxlvError("a stage of a series of runs", where=path, found=f"[{STAGE}]", hint="use jaxlv reproduce")
    return build_config(RunConfig, override(tree, overrides), where=path)


def read_tree(path: Path) -> dict[str, Any]:
    """The sections of a TOML file, laid over those of the file that its key `extends` names, beside it, and so on.

    Raises JaxlvError if a file is not there or not regular, has more than LARGEST_CONFIG bytes, or is not TOML; if more than
    MOST_EXTENDED files extend each other, or one itself; and if sections lie deeper than DEEPEST in each other.
    """
    trees: list[dict[str, Any]] = []
    seen: set[Path] = set()
    below: Any = Path(path)
    while below is not None:
        here = Path(below)
        tree = _read_toml(here)
        if here.resolve() in seen:
            raise JaxlvError("a config that extends itself", where=here)
        seen.add(here.resolve())
        if len(seen) > MOST_EXTENDED:
            raise JaxlvError("too many configs that extend each other", where=path, expected=f"at most {MOST_EXTENDED}")
        trees.append(tree)
        below = tree.pop("extends", None)
        if below is not None and not isinstance(below, str):
            raise JaxlvError("extends has the wrong type", where=here, expected="the name of a file", found=repr(below))
        below = None if below is None else here.parent / below
    return functools.reduce(laid_over, reversed(trees))


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise JaxlvError("no such config file", where=path)
    with path.open("rb") as file:
        content = file.read(LARGEST_CONFIG + 1)
    if len(content) > LARGEST_CONFIG:
        raise JaxlvError("the config file is too large", where=path, expected=f"at most {LARGEST_CONFIG} bytes")
    try:
        tree = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as fault:  # numbers of thousands of digits are no TOMLDecodeError
        raise JaxlvError(f"not valid TOML ({fault})", where=path) from None
    if _deeper(tree, DEEPEST):
        raise JaxlvError("sections lie too deep in each other", where=path, expected=f"at most {DEEPEST} levels")
    return tree


def _deeper(tree: Any, levels: int) -> bool:
    """Whether tables or lists lie in each other in more than so many levels."""
    if not isinstance(tree, (dict, list)):
        return False
    return not levels or any(_deeper(one, levels - 1) for one in (tree.values() if isinstance(tree, dict) else tree))


def laid_over(tree: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` with another laid over it: sections are joined, everything else is replaced."""
    joined = dict(tree)
    for key, value in above.items():
        below = joined.get(key)
        joined[key] = laid_over(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return joined


def override(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`tree` with "section.key=value" settings laid over it; a value that is not TOML is taken as a string."""
    tree = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    for text in overrides:
        dotted, separator, value = text.partition("=")
        *sections, key = dotted.strip().split(".")
        if not separator or not key or not all(sections):
            raise JaxlvError("not a setting", where=f"--set {text}", expected="section.key=value")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise JaxlvError("not a section", where=f"--set {text}", found=section)
        try:
            node[key] = tomllib.loads(f"value = {value}")["value"]
        except (ValueError, RecursionError):
            node[key] = value.strip()
    return tree


def build_config(cls: type, tree: Mapping[str, Any], where: Any = "config", prefix: str = "") -> Any:
    """A frozen dataclass from nested mappings; an unknown key or a value of the wrong type is an error that names it."""
    if not isinstance(tree, Mapping):
        raise JaxlvError(f"[{prefix.rstrip('.')}] must be a section", where=where, found=repr(tree))
    hints = _hints(cls)
    for key in tree:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known keys: {', '.join(hints)}"
            raise JaxlvError(f"unknown key {prefix}{key}", where=where, hint=hint)
    return cls(**{key: _convert(value, hints[key], where, prefix + key) for key, value in tree.items()})


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _convert(value: Any, hint: Any, where: Any, name: str) -> Any:
    def wrong(expected: str) -> JaxlvError:
        return JaxlvError(f"{name} has the wrong type", where=where, expected=expected, found=repr(value))

    if dataclasses.is_dataclass(hint):
        return build_config(typing.cast(type, hint), value, where, f"{name}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise JaxlvError(f"{name}", where=where, expected=" or ".join(map(repr, arguments)), found=repr(value))
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise wrong("a list")
        return tuple(_convert(item, arguments[0], where, f"{name}[{i}]") for i, item in enumerate(value))
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(value, arguments[0], where, name)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise wrong(hint.__name__)
    return value


def config_tree(config: Any) -> dict[str, Any]:
    """A config as plain nested dictionaries, lists and scalars."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def to_toml(config: Any) -> str:
    """A config as TOML that `load_config` reads back as the same value."""
    lines: list[str] = []
    for section, values in config_tree(config).items():
        lines += ["", f"[{section}]"]
        lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    return "\n".join(lines).lstrip() + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)
