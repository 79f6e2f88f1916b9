"""PEFT's adapter_config.json: read so that every setting is honoured, known to be without effect, or refused by its name."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxlv.errors import JaxlvError
from jaxlv.lora.overlay import ALL_LINEAR, PROJECTIONS
from jaxlv.model.bases import CONFIG, MOST_ALPHA, MOST_RANK, OFF, TENSORS
from jaxlv.settings import single
from jaxlv.storage import foreign, holding

MOST_NAMES = 10_000  # in a list; models have at most 7 * 512 projections
MOST_SAVED = 100  # modules saved whole
# The values that these settings may have if the adapter is plain LoRA; any other setting must be off.
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "task_type": (None, "CAUSAL_LM"),
    "bias": ("none",),
    "layers_pattern": (None, [], "layers", ["layers"]),
    # Other initialisations change the base too.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}
READ = (
    "peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules", "layers_to_transform", "lora_dropout",
    "rank_pattern", "alpha_pattern", "modules_to_save",
)  # fmt: skip
WITHOUT_EFFECT = (
    "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version", "megatron_core",
    "qalora_group_size", "eva_config", "ensure_weight_tying", "runtime_config",
)  # fmt: skip
NOT_ADAPTED = ("lm_head", "embed_tokens")  # PEFT could; the tensors have other names, and no place in an overlay
MLX = ("fine_tune_type", "lora_parameters", "lora_layers")  # settings of an MLX adapter

Names = tuple[str, ...] | None  # None: a pattern, which may take any time to match, so that the tensors tell
Wrong = Callable[..., JaxlvError]


@dataclass(frozen=True)
class ByModule:
    """Numbers that a config gives to some modules: of the names that a module's path ends with, the first counts.

    A name that begins with "^" is a whole path. `plain` is False if a name is a regular expression.
    """

    numbers: Mapping[str, tuple[int, Any]] = field(default_factory=dict)  # name: (its place, number)
    plain: bool = True

    def of(self, module: str, default: Any) -> Any:
        """Returns a module's number."""
        own = [self.numbers[name] for name in (f"^{module}", *ends(module)) if name in self.numbers]
        return min(own)[1] if own else default


@dataclass(frozen=True)
class AdapterConfig:
    """What adapter_config.json says about a plain LoRA adapter: rank and alpha of all modules but those in `ranks` and
    `alphas`, which modules are adapted, and which ones were saved whole beside them.
    """

    rank: int
    alpha: float
    rslora: bool
    dropout: float
    targets: Names
    layers: tuple[int, ...] | None  # None = all
    base: str | None
    revision: str | None
    excluded: Names = ()
    ranks: ByModule = field(default_factory=ByModule)
    alphas: ByModule = field(default_factory=ByModule)
    saved: tuple[str, ...] = ()

    @property
    def scaling(self) -> float:
        """The factor on B A x of a module that is in neither `ranks` nor `alphas`."""
        return scaling(self.rank, self.alpha, self.rslora)

    @property
    def lists_all(self) -> bool:
        """Tells whether names alone say what is adapted, without a pattern."""
        return self.targets is not None and self.excluded is not None

    def adapts(self, module: str) -> bool:
        """Tells whether a projection may be adapted, by PEFT's rules for names (its `check_target_module_exists`); a pattern
        allows everything.
        """
        targets, excluded = self._sets
        if not excluded.isdisjoint(own := ends(module)) or any(f".{name}." in f".{module}." for name in self.saved):
            return False
        if module in targets:
            return True
        named = self.targets is None or not targets.isdisjoint(own)
        return named and (self.layers is None or layer_of(module) in self.layers)

    @functools.cached_property
    def _sets(self) -> tuple[frozenset[str], frozenset[str]]:
        return frozenset(self.targets or ()), frozenset(self.excluded or ())


def scaling(rank: int, alpha: float, rslora: bool) -> float:
    """Returns the factor on B A x: alpha / rank (Hu et al. 2021), or alpha / sqrt(rank) (Kalajdzievski 2023)."""
    return alpha / rank**0.5 if rslora else alpha / rank


def ends(module: str) -> list[str]:
    """Returns what a dotted path ends with: itself and every shorter name, such as q_proj."""
    parts = module.split(".")
    return [".".join(parts[first:]) for first in range(len(parts))]


def layer_of(module: str) -> int:
    """Returns the number of a projection's layer."""
    return int(module.split(".")[2])


# ------------------------------------------------------------------------------------------------- reading


def read_config(folder: Path) -> AdapterConfig:
    """Reads and checks adapter_config.json; raises JaxlvError, naming the setting, for whatever goes beyond plain LoRA."""
    path, raw = Path(folder) / CONFIG, foreign.settings(folder, CONFIG)
    if raw is None:
        raise no_adapter(folder)

    def wrong(name: str, expected: str, found: Any = None) -> JaxlvError:
        shown = repr(raw.get(name) if found is None else found)
        return JaxlvError(f"{name} is not supported", where=path, expected=expected, found=shown)

    if raw.get("peft_type") is None and any(name in raw for name in MLX):
        own = ", ".join(name for name in MLX if name in raw)
        hint = holding.HINTS["an MLX adapter"]
        raise JaxlvError("an MLX adapter, not one of PEFT", where=path, expected="peft_type", found=own, hint=hint)
    if raw.get("peft_type") != "LORA":
        raise wrong("peft_type", "LORA")
    for name, value in raw.items():
        if name in PLAIN and not _one_of(value, PLAIN[name]):
            raise wrong(name, " or ".join(map(repr, PLAIN[name])))
        if name not in (*PLAIN, *READ, *WITHOUT_EFFECT) and not _one_of(value, OFF):
            raise wrong(name, "plain LoRA, without it")
    rank, alpha, dropout = (raw.get(name, default) for name, default in (("r", 0), ("lora_alpha", 0), ("lora_dropout", 0)))
    _check_rank(rank, "r", wrong)
    _check_alpha(alpha, "lora_alpha", wrong)
    if not single(alpha / rank):
        raise wrong("lora_alpha", "a number that is not 0 in float32, divided by r")
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise wrong("lora_dropout", "a number in [0, 1)")
    if not isinstance(raw.get("use_rslora", False), bool):
        raise wrong("use_rslora", "true or false")
    base, revision = (foreign.typed(raw, name, str, path) or None for name in ("base_model_name_or_path", "revision"))
    layers = _layers(raw.get("layers_to_transform"), wrong)
    alphas = _by_module(raw, "alpha_pattern", _check_alpha, wrong)
    if not alphas.plain:
        raise wrong("alpha_pattern", "names of modules: what else matches a regular expression is not in the file")
    return AdapterConfig(
        rank, float(alpha), raw.get("use_rslora", False), float(dropout), _targets(raw, wrong), layers, base,
        revision, _excluded(raw.get("exclude_modules"), wrong), _by_module(raw, "rank_pattern", _check_rank, wrong), alphas,
        tuple(_names(raw, "modules_to_save", wrong, MOST_SAVED) or ()),
    )  # fmt: skip


def no_adapter(folder: str | Path) -> JaxlvError:
    """Returns the error of a folder without an adapter: it says what the folder holds instead."""
    found = holding.of_folder(folder)
    hint = found.hint
    if found.kind == "a PEFT adapter":
        hint = f"{CONFIG} and {TENSORS} belong together"
    return JaxlvError("no adapter", where=folder, expected=f"{CONFIG} and {TENSORS}", found=found, hint=hint)


def _one_of(value: Any, allowed: Iterable[Any]) -> bool:
    return any(type(value) is type(one) and value == one for one in allowed)


def _check_rank(value: Any, name: str, wrong: Wrong) -> None:
    if type(value) is not int or not 1 <= value <= MOST_RANK:
        raise wrong(name, f"a whole number from 1 to {MOST_RANK}", value)


def _check_alpha(value: Any, name: str, wrong: Wrong) -> None:
    if type(value) not in (int, float) or not 0 < value <= MOST_ALPHA:
        raise wrong(name, "a positive number", value)


def _by_module(raw: Mapping[str, Any], name: str, check: Callable[[Any, str, Wrong], None], wrong: Wrong) -> ByModule:
    given = raw.get(name) or {}
    if not isinstance(given, Mapping):
        raise wrong(name, "a number by the name of a module")
    numbers: dict[str, tuple[int, Any]] = {}
    for place, (module, value) in enumerate(given.items()):
        check(value, name, wrong)
        numbers.setdefault(module.removesuffix("$").replace("\\.", "."), (place, value))
    plain = all(re.fullmatch(r"\^?[\w.-]+", module) for module in numbers)
    return ByModule(numbers if plain else {}, plain)


def _names(raw: Mapping[str, Any], name: str, wrong: Wrong, most: int = MOST_NAMES) -> list[str] | None:
    """Returns the names in a list, None if the setting is off."""
    value = raw.get(name)
    if _one_of(value, OFF):
        return None
    if not isinstance(value, list) or not all(isinstance(one, str) and one and one.isprintable() for one in value):
        raise wrong(name, f"names such as {', '.join(PROJECTIONS[:2])}")
    if len(value) > most:
        raise wrong(name, f"at most {most} names", len(value))
    return value


def _targets(raw: Mapping[str, Any], wrong: Wrong) -> Names:
    value = raw.get("target_modules")
    if value == ALL_LINEAR:
        return PROJECTIONS
    if value is None or (value and isinstance(value, str)):
        return None
    names = _names(raw, "target_modules", wrong)
    for name in names or ():
        if name.rpartition(".")[2] in NOT_ADAPTED:
            raise wrong("target_modules", f"among {', '.join(PROJECTIONS)}", name)
    if not names:
        raise wrong("target_modules", f"names such as {', '.join(PROJECTIONS[:2])}")
    return tuple(names)


def _excluded(value: Any, wrong: Wrong) -> Names:
    if isinstance(value, str) and value:
        return None
    return tuple(_names({"exclude_modules": value}, "exclude_modules", wrong) or ())


def _layers(value: Any, wrong: Wrong) -> tuple[int, ...] | None:
    layers = [value] if isinstance(value, int) and not isinstance(value, bool) else value
    if layers in (None, []):
        return None
    if not isinstance(layers, list) or not all(type(one) is int and one >= 0 for one in layers):
        raise wrong("layers_to_transform", "numbers of layers")
    return tuple(sorted(set(layers)))
