"""A Qwen2.5 architecture as a frozen dataclass, read from Hugging Face's config.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlv.errors import JaxlvError
from jaxlv.model.packed import SETTINGS, packing_of
from jaxlv.settings import single
from jaxlv.storage import foreign, holding

CONFIG = "config.json"
# Far above any Qwen2.5, and below what a damaged file could ask for.
MOST = {
    "vocab_size": 1 << 22, "hidden_size": 1 << 16, "intermediate_size": 1 << 19, "num_hidden_layers": 512,
    "num_attention_heads": 1 << 12, "num_key_value_heads": 1 << 12, "head_dim": 1 << 12, "max_position_embeddings": 1 << 24,
}  # fmt: skip
MOST_PARAMETERS = 1 << 40
THETA = 1.0, 1e12  # RoPE's angles are computed in float32


@dataclass(frozen=True)
class ModelConfig:
    """A Qwen2.5 architecture; the field names are those of Hugging Face's config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 32_768

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            size = getattr(self, name)
            if type(size) is not int or not 1 <= size <= most:
                expected = f"a whole number from 1 to {most:,}"
                raise JaxlvError(f"{name} is not a size", where="model config", expected=expected, found=repr(size))
        if self.num_attention_heads % self.num_key_value_heads:
            raise JaxlvError(
                "num_attention_heads must be a multiple of num_key_value_heads",
                where="model config",
                found=f"{self.num_attention_heads} and {self.num_key_value_heads}",
            )
        if self.head_dim % 2:
            raise JaxlvError("RoPE needs an even head_dim", where="model config", found=self.head_dim)
        for name, right, expected in (
            ("rms_norm_eps", 0 < single(_number(self.rms_norm_eps)) < 1, "a number above 0 and below 1"),
            ("rope_theta", THETA[0] <= _number(self.rope_theta) <= THETA[1], f"a number from {THETA[0]:g} to {THETA[1]:g}"),
            ("tie_word_embeddings", type(self.tie_word_embeddings) is bool, "true or false"),
        ):
            if not right:
                found = repr(getattr(self, name))
                raise JaxlvError(f"{name} cannot be that", where="model config", expected=expected, found=found)
        if self.parameters > MOST_PARAMETERS:
            expected, found = f"at most {MOST_PARAMETERS:,} parameters", f"{self.parameters:,}"
            raise JaxlvError("the model is too large", where="model config", expected=expected, found=found)

    @property
    def parameters(self) -> int:
        """The number of parameters of a model of these sizes, before it is built; a tied head counts once."""
        width, queries = self.hidden_size, self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        attention = 2 * width * queries + queries + 2 * (width * keys + keys)  # the output projection has no bias
        layer = attention + 3 * width * self.intermediate_size + 2 * width
        return (2 - self.tie_word_embeddings) * self.vocab_size * width + self.num_hidden_layers * layer + width

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: Any = CONFIG) -> ModelConfig:
        """Returns the architecture that a config.json describes; raises JaxlvError, which names it, for anything not
        implemented here.
        """
        if not isinstance(raw, Mapping):
            raise JaxlvError("not a model config", where=where, expected="a JSON object", found=type(raw).__name__)
        _refuse_other_architectures(raw, where)
        packing_of(raw.get(SETTINGS), where)

        def size(name: str, default: int | None = None) -> int:
            found = foreign.typed(raw, name, int, where, default)
            if found is None:
                raise JaxlvError("a key is missing", where=where, expected=name)
            return found

        hidden, heads = size("hidden_size"), size("num_attention_heads")
        try:
            return cls(
                vocab_size=size("vocab_size"),
                hidden_size=hidden,
                intermediate_size=size("intermediate_size"),
                num_hidden_layers=size("num_hidden_layers"),
                num_attention_heads=heads,
                num_key_value_heads=size("num_key_value_heads", heads),
                head_dim=size("head_dim", hidden // heads if heads > 0 else 0),
                rms_norm_eps=foreign.typed(raw, "rms_norm_eps", float, where, 1e-6),
                rope_theta=_rope_theta(raw, where),
                tie_word_embeddings=foreign.typed(raw, "tie_word_embeddings", bool, where, False),
                max_position_embeddings=size("max_position_embeddings", 32_768),
            )
        except JaxlvError as fault:
            place = where if fault.where == "model config" else fault.where
            raise JaxlvError(fault.what, where=place, expected=fault.expected, found=fault.found) from None

    @classmethod
    def from_folder(cls, folder: str | Path) -> ModelConfig:
        """Returns the architecture in `folder`/config.json."""
        raw = foreign.settings(folder, CONFIG)
        if raw is None:
            raise without_config(folder)
        return cls.from_hf(raw, where=Path(folder) / CONFIG)

    def to_hf(self) -> dict[str, Any]:
        """Returns the config.json that transformers reads as the same architecture."""
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_act": "silu",
            "use_sliding_window": False,
            "torch_dtype": "float32",
            **dataclasses.asdict(self),
        }


def without_config(folder: str | Path) -> JaxlvError:
    """Returns the error of a folder without a config.json: it says what the folder holds instead."""
    found = holding.of_folder(folder)
    hint = "give a Hugging Face folder" if found.kind == "a whole model" else found.hint or "give a Hugging Face folder"
    return JaxlvError(f"no {CONFIG} in the model folder", where=folder, found=found, hint=hint)


# The values that these settings may have; another value, or another type, means another model.
IMPLEMENTED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "model_type": (("qwen2",), "not a Qwen2.5 model"),
    "use_sliding_window": ((None, False), "sliding-window attention is not implemented"),
    "hidden_act": ((None, "silu"), "only the SiLU activation is implemented"),
    "quantization": ((None,), "quantised weights are not implemented"),  # as MLX writes it
    "partial_rotary_factor": ((None, 1, 1.0), "partial rotary embedding is not implemented"),
}
ARCHITECTURE = "Qwen2ForCausalLM"


def _refuse_other_architectures(raw: Mapping[str, Any], where: Any) -> None:
    for name in IMPLEMENTED:
        _refuse_other(name, raw.get(name), where)
    for name, only, what in (
        ("architectures", ARCHITECTURE, "another architecture"),
        ("layer_types", "full_attention", "only full attention is implemented"),
    ):
        found = raw.get(name)
        if found is not None and not (isinstance(found, list) and all(one == only for one in found)):
            raise JaxlvError(what, where=where, expected=f'{name} of "{only}" alone', found=repr(found))


def _refuse_other(name: str, value: Any, where: Any) -> None:
    allowed, what = IMPLEMENTED[name]
    if not any(type(value) is type(one) and value == one for one in allowed):
        words = " or ".join(json.dumps(one) for one in dict.fromkeys(allowed))
        raise JaxlvError(what, where=where, expected=f"{name} {words}", found=f"{name} {value!r}")


def _rope_theta(raw: Mapping[str, Any], where: Any) -> float:
    """Returns theta from `rope_parameters` (transformers 5) or `rope_theta`; raises JaxlvError for any scaled variant of
    RoPE.
    """
    parameters: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        given = raw.get(name)
        if given is not None and not isinstance(given, Mapping):
            raise JaxlvError(f"{name} is not a rope type", where=where, expected="an object", found=repr(given))
        parameters |= given or {}
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind != "default":
        raise JaxlvError("only the default rope type is implemented", where=where, found=f"rope type {kind!r}")
    _refuse_other("partial_rotary_factor", parameters.get("partial_rotary_factor"), where)
    return foreign.typed(parameters, "rope_theta", float, where, foreign.typed(raw, "rope_theta", float, where, 10_000.0))


def _number(value: Any) -> float:
    """Returns a number unchanged, and NaN for anything else."""
    return float("nan") if isinstance(value, bool) or not isinstance(value, (int, float)) else value
