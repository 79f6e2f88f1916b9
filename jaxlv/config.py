"""The settings of a run as frozen dataclasses, read from TOML."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.util
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxlv.errors import JaxlvError, represented
from jaxlv.settings import (
    AXIS,
    PATH,
    SEEDS,
    Between,
    Either,
    Entries,
    Items,
    Name,
    Number,
    Settings,
    Text,
    build_config,
    setting,
)
from jaxlv.storage.door import LIMITS, at_home, content, is_there

Dtype = Literal["float32", "bfloat16"]
Kernel = Literal["xla", "blocked", "cudnn"]
Weights = Literal["full", "int8", "nf4"]
Sink = Literal["tensorboard", "wandb", "mlflow"]
Scale = Literal["context", "xu", "rai", "mao", "liu"]
MOST_EXTENDED = 20  # config files that extend each other
DEEPEST = 20  # levels of sections and lists
GRID = "grid"  # the section of a config that `jaxlv sweep` reads
STAGE = "stage"  # the section that tells `jaxlv reproduce` what a stage is; a sweep reads its `skip`

NAME, NAMES = Text(), Items(Text(), 0, 100)
COUNT, COUNT_OR_NONE = Between(1, AXIS), Between(0, AXIS)
DEVICES = Between(-1, AXIS)
SHARE, ROOM = Between(0, 1), Between(0, 1, below=True)
IDS = Items(Either(Between(-(2**63), 2**63 - 1), Text()))  # numbers of series have 64 bits
FLOPS = Between(0, 1e30)  # a thousand times what any model has cost


@dataclass(frozen=True)
class DataConfig(Settings, section="data"):
    """Which series to use, and how to split them."""

    path: str = setting("", 'HDF5, CSV or NumPy file; "" = simulate data.preset', PATH)
    preset: str = setting("course", "simulator preset used if data.path is empty", Text())
    simulate: int = setting(1000, "number of series to simulate", Between(1, AXIS))
    seed: int = setting(42, "seed of the simulation and of the split", Between(0, SEEDS))
    split: Literal["fractions", "xu", "rai", "mao", "liu"] = setting("fractions", "by data.fractions, or as that paper does")
    fractions: tuple[float, ...] = setting((0.70, 0.15, 0.15), "train, validation, test", Items(SHARE, 3, 3))
    id: str = setting("", 'column that tells series apart; "" = found by its name', NAME)
    time: str = setting("", 'column of times; "" = found by its name', NAME)
    columns: tuple[str, ...] = setting((), "variables, in this order; every other column of numbers if none", NAMES)
    separate: bool = setting(False, "make each variable a series of its own")
    missing: Literal["interpolate", "mark", "drop", "error"] = setting(
        "interpolate",
        "missing values: interpolate them, mark them in the text, drop the steps before the last one, or refuse the file",
    )
    negative: Literal["shift", "error"] = setting("shift", "values below zero: shift their variable, or refuse the file")
    bad_series: Literal["error", "drop"] = setting(
        "error", "drop: leave out series with missing, infinite or negative values, whatever the two settings before say"
    )
    holdout: int = setting(
        0, "last steps of every series that are kept for the test; 0 = whole series are split", COUNT_OR_NONE
    )
    train_share: float = setting(
        1.0, "of the training series that are used: the first of the split's order", Between(0, 1, above=True)
    )
    stratify: bool = setting(False, "split within regimes")
    train_ids: tuple[Name, ...] = setting(
        (), "explicit ids, numbers or texts; given for one share, they must be given for all three", IDS
    )
    validation_ids: tuple[Name, ...] = setting((), "explicit ids, as data.train_ids", IDS)
    test_ids: tuple[Name, ...] = setting((), "explicit ids, as data.train_ids", IDS)


@dataclass(frozen=True)
class CodecConfig(Settings, section="codec"):
    """How numbers become text."""

    scale: Scale = setting("context", "how raw values are scaled")
    headroom: float = setting(0.5, 'share of the range left free above the context\'s maximum (scale = "context")', ROOM)
    headrooms: tuple[float, ...] = setting(
        (), "several: training windows draw one each, and samples are shared out among them", Items(ROOM, 0, 1000)
    )
    decimals: int = setting(2, "digits behind the point", Between(1, 6))
    parsing: Literal["steps", "position"] = setting(
        "steps", "position: a paper's mistake, by which a lost delimiter shifts the rest"
    )


@dataclass(frozen=True)
class WindowConfig(Settings, section="windows"):
    """How a series' tokens become training windows."""

    length: int = setting(512, "tokens", Between(2, AXIS))
    stride: int = setting(256, "tokens between window starts", COUNT)
    align: Literal["step", "token"] = setting("step", "move starts forward to the next time step, or cut anywhere")
    partial: Literal["drop", "pad"] = setting("pad", "the last, shorter window of a series")
    side: Literal["right", "left"] = setting("right", "of the padding; positions make both give the same logits")
    pads: Literal["ignored", "counted"] = setting(
        "ignored", "counted: a mistake of two papers, padding that is seen and predicted"
    )
    context_steps: tuple[int, ...] = setting(
        (20, 80), "[least, most] steps: the training scale is fitted on a context drawn from this range", Items(COUNT, 2, 2)
    )

    @property
    def padding(self) -> Literal["any", "right"]:
        """Returns what a program may rely on: that padding is only on the right, or nothing."""
        return "right" if self.side == "right" else "any"

    def agree(self) -> None:
        """Raises JaxlvError if `context_steps` is not a range, or if padding that counts stands on the left."""
        if not self.context_steps[0] <= self.context_steps[1]:
            raise JaxlvError(
                "not a range", where="windows.context_steps", expected="[least, most]", found=list(self.context_steps)
            )
        if self.pads == "counted" and self.side == "left":
            raise JaxlvError('needs windows.side = "right"', where='windows.pads = "counted"', found="left")


@dataclass(frozen=True)
class LoraConfig(Settings, section="lora"):
    """Which low-rank paths are added to the base, and what else trains."""

    rank: int = setting(4, "rank of A and B", Between(1, 2**20))  # no matrix of a model has more rows
    alpha: float = setting(0.0, "0 = rank, as in the assignment", Between(0, 1e9))
    targets: tuple[str, ...] = setting(
        ("q_proj", "v_proj"), "projections that are adapted", Items(Text(20), 0, 100, alone=("all-linear",))
    )
    dropout: float = setting(0.0, "share of the inputs of A left out in training", Between(0, 1, below=True))
    rslora: bool = setting(False, "scale alpha / sqrt(rank) instead of alpha / rank")
    head: Literal["frozen", "bias", "full"] = setting("bias", "what of the LM head trains beside A and B")
    init: str = setting("", 'folder of an adapter in PEFT\'s format to begin from; "" = A at random, B zero', PATH)

    @property
    def scaling(self) -> float:
        """The factor on B A x: alpha / rank, or alpha / sqrt(rank) for rsLoRA."""
        alpha = self.alpha or float(self.rank)
        return alpha / self.rank**0.5 if self.rslora else alpha / self.rank


@dataclass(frozen=True)
class ModelSettings(Settings, section="model"):
    """Which base model to use, and how it computes."""

    path: str = setting("embedded", 'a folder, a hub id, "embedded" (here "embedded-cycles") or "embedded-field"', PATH)
    revision: str = setting("", 'commit, tag or branch of a hub id; "" = the newest', Text())
    dtype: Dtype = setting("float32", "type of the frozen weights and of matrix products")
    weights: Weights = setting(
        "full", "bits of the layers' frozen projections: model.dtype, or 8 (int8) or 4 (nf4), which are rounded when loaded"
    )
    attention: Kernel = setting("xla", "blocked: XLA, skipping blocks of scores that the mask hides")
    loss: Literal["vocabulary", "alphabet"] = setting("vocabulary", "cross-entropy over all tokens or the 13 symbols")
    logits: Dtype = setting("float32", "type in which training holds logits; bfloat16 halves their memory, and rounds them")
    remat: bool = setting(False, "compute each layer again in the backward pass: less memory, about a third more FLOPs")
    deterministic: bool = setting(False, "on a GPU: the same bits in every run, but slower; a CPU always gives them")

    def agree(self) -> None:
        """Raises JaxlvError if logits are narrower than the model."""
        if self.logits == "bfloat16" and self.dtype != "bfloat16":
            raise JaxlvError('needs model.dtype = "bfloat16"', where="model.logits", found=self.dtype)


@dataclass(frozen=True)
class OptimizerConfig(Settings, section="optimizer"):
    """The optimiser and its schedule."""

    name: Literal["adam", "adamw", "muon"] = setting("adam", "muon: matrices by Muon, vectors by AdamW")
    learning_rate: float = setting(1e-5, "learning rate at its peak", Between(0, 3.4e38, above=True))  # the range of float32
    schedule: Literal["constant", "cosine", "onecycle"] = setting("constant", "how the learning rate changes")
    warmup_steps: int = setting(0, "steps of a linear warm-up", Between(0, AXIS))
    final_fraction: float = setting(0.0, "learning rate at the end, as a share of the peak (cosine)", SHARE)
    weight_decay: float = setting(0.0, "adamw and muon; on matrices, never on biases", Between(0, 1000))
    vector_rate: float = setting(
        1.0, "muon only: the learning rate of vectors, as a share of the matrices'", Between(0, 1000)
    )
    clip_norm: float = setting(0.0, "greatest norm of the gradients; 0 = no clipping", Between(0, 1e9))
    b1: float = setting(0.9, "decay of the mean of the gradients", Between(0, 1, below=True))
    b2: float = setting(0.999, "decay of the mean of their squares", Between(0, 1, below=True))
    eps: float = setting(1e-8, "added to the root of that mean; 0 would divide by 0", Between(0, 1, above=True))

    def agree(self) -> None:
        """Raises JaxlvError if Adam, which does not use it, is given a weight decay."""
        if self.weight_decay and self.name == "adam":
            raise JaxlvError('needs optimizer.name = "adamw" or "muon"', where="optimizer.weight_decay", found="adam")


@dataclass(frozen=True)
class TrainConfig(Settings, section="train"):
    """How long to train, with how much data at once, and what to do along the way."""

    steps: int = setting(1000, "optimiser steps", COUNT)
    batch_size: int = setting(4, "windows per micro-batch", COUNT)
    accumulate: int = setting(1, "micro-batches per optimiser step", COUNT)
    seed: int = setting(0, "seed of the adapters, the order of windows and dropout", Between(0, SEEDS))
    log_every: int = setting(10, "steps between lines in metrics.jsonl", COUNT)
    validate_every: int = setting(200, "steps between validations; 0 = never", COUNT_OR_NONE)
    validation_windows: int = setting(64, "windows in a validation, at most", COUNT)
    forecast_series: int = setting(8, "validation series forecast at each validation; 0 = none", COUNT_OR_NONE)
    forecast_context: int = setting(0, "time steps that those forecasts are given; 0 = evaluate.context", COUNT_OR_NONE)
    forecast_horizon: int = setting(0, "time steps that they forecast; 0 = evaluate.horizon", COUNT_OR_NONE)
    mean: Literal["tokens", "examples"] = setting(
        "tokens", "examples: a paper's mistake, batch means over the number of windows"
    )
    checkpoint_every: int = setting(200, "steps between checkpoints", COUNT)
    select: Literal["loss", "forecast"] = setting("loss", 'what "best" means')
    sinks: tuple[Sink, ...] = setting((), "where metrics go in addition to metrics.jsonl", Items(None, 0, 3))
    skip_nonfinite: int = setting(
        0, "how many steps with a loss or gradient that is not finite are skipped; the next ends the run", COUNT_OR_NONE
    )
    halve_on_oom: bool = setting(False, "if memory runs out, halve the batch and double train.accumulate instead of ending")

    def agree(self) -> None:
        """Raises JaxlvError if the best checkpoint is chosen by forecasts but no forecasts are made."""
        if self.select == "forecast" and not self.forecast_series:
            raise JaxlvError("needs train.forecast_series > 0", where='train.select = "forecast"')


@dataclass(frozen=True)
class SamplingConfig(Settings, section="sampling"):
    """How tokens are drawn; Qwen's own generation defaults are never applied."""

    # A smaller divisor, or a larger factor, could push logits out of float32's range.
    temperature: float = setting(1.0, "0 = greedy", Between(1e-6, 1e6, also=(0,)))
    top_k: int = setting(0, "draw only from this many most probable tokens; 0 = all", COUNT_OR_NONE)
    top_p: float = setting(
        1.0, "draw only from the most probable tokens that together have this probability", Between(0, 1, above=True)
    )
    repetition_penalty: float = setting(1.0, "factor against tokens that have been seen; 1 = none", Between(1e-3, 1e3))
    grammar: bool = setting(True, "mask the logits so that every sample can be parsed")


@dataclass(frozen=True)
class EvaluateConfig(Settings, section="evaluate"):
    """How forecasts are made and measured."""

    context: int = setting(50, "time steps given", COUNT)
    horizon: int = setting(50, "time steps forecast", COUNT)
    samples: int = setting(20, "sampled trajectories per series", COUNT)
    series: int = setting(0, "at most this many test series; 0 = all", COUNT_OR_NONE)
    seed: int = setting(0, "seed of the samples", Between(0, SEEDS))
    batch_series: int = setting(
        0, "series decoded together; 0 = as many as the device's memory holds (at most 8 on a CPU)", COUNT_OR_NONE
    )
    unmasked_samples: int = setting(
        4, "samples per series without the grammar, to count how many can be parsed; 0 = none", COUNT_OR_NONE
    )

    @property
    def read_together(self) -> int:
        """The number of texts in a forward pass that measures their likelihood."""
        return self.batch_series or 8


@dataclass(frozen=True)
class BudgetConfig(Settings, section="budget", needs="flops"):
    """A FLOP budget, kept in a ledger; work that does not fit is not run. Without this section there is no budget."""

    flops: float | None = setting(None, "FLOPs that may be spent; with 0, nothing runs", FLOPS)
    convention: str = setting("exact", "what a FLOP is: a name of jaxlv.flops.conventions.CONVENTIONS", Text())
    held_back: float = setting(0.0, "FLOPs kept for the evaluation", FLOPS)
    phase: str = setting("final", "what this run is part of", Text())
    phases: dict[str, Number] = setting(dict, "FLOPs that each phase may spend, by name", Entries(FLOPS))
    repeats: Literal["within", "beyond"] = setting("within", "the budget: work repeated after an interruption")
    several: bool = setting(False, "whether several processes spend from the ledger at once, as shards of a sweep do")
    ledger: str = setting("", 'file, relative to the run folder, that runs may share; "" = ledger.jsonl in it', PATH)


@dataclass(frozen=True)
class MeshConfig(Settings, section="mesh"):
    """On how many devices a run computes; a run that is resumed, or measured, may do so on others."""

    data: int = setting(-1, "devices that share the rows of a batch; -1 = as many as there are, and as divide it", DEVICES)
    model: int = setting(1, "devices that share each weight, by heads and features", COUNT)
    fsdp: bool = setting(False, "cut the weights of layers over data, too: less memory, more traffic; best with model.remat")
    patience: float = setting(
        1800.0, "seconds after which a step that several processes take is given up; 0 = never", Between(0, 1e9)
    )

    def agree(self) -> None:
        """Raises JaxlvError for 0 devices."""
        if self.data == 0:
            raise JaxlvError("needs a device", where="mesh.data", expected="-1, or at least 1", found=0)


@dataclass(frozen=True)
class RunConfig(Settings):
    """Everything that defines a run; `jaxlv train` saves it, fully resolved, as config.toml in the run folder."""

    data: DataConfig = setting(DataConfig, "which series")
    codec: CodecConfig = setting(CodecConfig, "how numbers become text")
    windows: WindowConfig = setting(WindowConfig, "how text becomes training windows")
    model: ModelSettings = setting(ModelSettings, "which base")
    lora: LoraConfig = setting(LoraConfig, "what is added to it")
    optimizer: OptimizerConfig = setting(OptimizerConfig, "how it trains")
    train: TrainConfig = setting(TrainConfig, "how long")
    sampling: SamplingConfig = setting(SamplingConfig, "how tokens are drawn")
    evaluate: EvaluateConfig = setting(EvaluateConfig, "what is measured")
    budget: BudgetConfig = setting(BudgetConfig, "what it may cost")
    mesh: MeshConfig = setting(MeshConfig, "on which devices")

    @property
    def causal(self) -> bool:
        """Tells whether a fused kernel of attention needs no mask in training and validation (jaxlv.model.attention)."""
        return self.model.attention == "cudnn" and self.windows.padding == "right"

    @property
    def narrow(self) -> bool:
        """Tells whether training and validation hold their logits in bfloat16."""
        return self.model.logits == "bfloat16"


@dataclass(frozen=True)
class StageConfig(Settings, section=STAGE):
    """What `jaxlv reproduce` does with a config: its section [stage]."""

    train: bool = setting(True, "whether anything is trained")
    share: float = setting(1.0, "share of the steps that are taken", Between(0, 1, above=True))
    skip: tuple[dict, ...] = setting((), "combinations of a grid that are left out", Items(None, 0, 10_000))


# ------------------------------------------------------------------------------------------------ reading


def built_in() -> dict[str, Path]:
    """Returns the configs that come with jaxlv, by name, such as "demo" or "xu/grid"."""
    found = importlib.util.find_spec("jaxlv.configs")
    folders = [Path(folder) for folder in (found.submodule_search_locations or [])] if found else []
    return {
        path.relative_to(one).with_suffix("").as_posix(): path for one in folders for path in sorted(one.rglob("*.toml"))
    }


def find_config(name: str | Path) -> Path:
    """Returns the file that a name means: a TOML file, or else a config that comes with jaxlv.

    Raises JaxlvError if it is neither.
    """
    path, known = Path(at_home(name)), built_in()
    if str(name) in known and not path.is_file():
        return known[str(name)]
    if is_there(path):
        return path
    raise JaxlvError(
        "no such config", where=name, expected=f"a TOML file, or one of {', '.join(known)}",
        hint=" or ".join(f"{one}?" for one in difflib.get_close_matches(str(name), known)) or None,
    )  # fmt: skip


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Returns the run that a TOML file describes. Later sources win: defaults, what the file extends, the file, `overrides`
    ("section.key=value" in TOML).
    """
    tree = read_tree(path := find_config(path))
    if GRID in tree:
        raise JaxlvError("a grid of runs, not one run", where=path, found=f"[{GRID}]", hint="use jaxlv sweep")
    if STAGE in tree:
        raise JaxlvError("a stage of a series of runs", where=path, found=f"[{STAGE}]", hint="use jaxlv reproduce")
    return build_config(RunConfig, override(tree, overrides), where=path)


def with_settings(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """Returns a config with settings of the form "section.key=value". Raises JaxlvError if one is unknown or not allowed."""
    return build_config(RunConfig, override(config_tree(config), overrides), "--set") if overrides else config


def read_tree(path: Path) -> dict[str, Any]:
    """Returns the sections of a TOML file, laid over those of the file beside it that its key `extends` names, and so on.

    Raises JaxlvError if a file is missing, not regular, too large for a config or not TOML; if more than MOST_EXTENDED files
    extend each other, or a file extends itself; or if sections are nested more than DEEPEST levels deep.
    """
    return functools.reduce(laid_over, reversed(_extended(path).values()))


def with_extended(path: Path) -> list[Path]:
    """Returns a config file and those that it extends. Raises JaxlvError as `read_tree` does."""
    return list(_extended(path))


def _extended(path: Path) -> dict[Path, dict[str, Any]]:
    """Returns the sections of a TOML file and of those that it extends, by resolved path, in that order."""
    trees: dict[Path, dict[str, Any]] = {}
    below: Any = Path(path)
    while below is not None:
        here = Path(below)
        tree = _read_toml(here)
        if here.resolve() in trees:
            raise JaxlvError("a config that extends itself", where=here)
        trees[here.resolve()] = tree
        if len(trees) > MOST_EXTENDED:
            raise JaxlvError("too many configs that extend each other", where=path, expected=f"at most {MOST_EXTENDED}")
        below = tree.pop("extends", None)
        if below is not None and not isinstance(below, str):
            raise JaxlvError("extends has the wrong type", where=here, expected="the name of a file", found=repr(below))
        below = None if below is None else here.parent / below
    return trees


def _read_toml(path: Path) -> dict[str, Any]:
    if not is_there(path):
        raise JaxlvError("no such config file", where=path)
    text = content(path, LIMITS["config"])
    try:
        tree = tomllib.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as fault:  # for thousands of digits, not a TOMLDecodeError
        raise JaxlvError(f"not valid TOML ({fault})", where=path) from None
    if _deeper(tree, DEEPEST):
        raise JaxlvError("sections are nested too deeply", where=path, expected=f"at most {DEEPEST} levels")
    return tree


def _deeper(tree: Any, levels: int) -> bool:
    """Tells whether tables and lists are nested more than `levels` deep."""
    if not isinstance(tree, (dict, list)):
        return False
    return not levels or any(_deeper(one, levels - 1) for one in (tree.values() if isinstance(tree, dict) else tree))


class Sections(NamedTuple):
    """The sections of a file: those of a run, the axes in [grid], and what is in [stage]."""

    run: dict[str, Any]
    axes: dict[str, Any]
    stage: StageConfig


def sections(tree: Mapping[str, Any], where: Any) -> Sections:
    """Splits the sections of a file. Raises JaxlvError if [grid] or [stage] is not what it should be."""
    rest = dict(tree)
    axes, stage = rest.pop(GRID, {}), build_config(StageConfig, rest.pop(STAGE, {}), where, f"{STAGE}.")
    if not isinstance(axes, Mapping):
        raise JaxlvError(f"[{GRID}] must be a section", where=where, found=represented(axes))
    return Sections(rest, dict(axes), stage)


def laid_over(tree: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `tree` with `above` laid over it: sections are merged, everything else is replaced."""
    joined = dict(tree)
    for key, value in above.items():
        below = joined.get(key)
        joined[key] = laid_over(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return joined


def override(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns `tree` with "section.key=value" settings laid over it; a value that is not valid TOML becomes a string."""
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
        except (tomllib.TOMLDecodeError, RecursionError):
            node[key] = value.strip()
        except ValueError:  # Python refuses to read whole numbers of more than 4,300 digits
            raise JaxlvError("the number has too many digits", where=f"--set {dotted}", found=value) from None
    return tree


def config_tree(config: Any) -> dict[str, Any]:
    """Returns a config as plain nested dictionaries, lists and scalars."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def to_toml(config: Any) -> str:
    """Returns a config as TOML that `load_config` reads back as the same value."""
    lines: list[str] = []
    for section, values in config_tree(config).items():
        if getattr(config, section).is_left_out:
            continue
        lines += ["", f"[{section}]"]
        lines += [f"{key} = {toml_value(value)}" for key, value in values.items()]
    return "\n".join(lines).lstrip() + "\n"


def toml_value(value: Any) -> str:
    """Returns a value as TOML writes it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml_value(item)}" for key, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)  # TOML has no surrogate pairs
