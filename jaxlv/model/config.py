"""A Qwen2.5 architecture as a frozen dataclass, read from Hugging Face's config.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlv.errors import JaxlvError
from jaxlv.storage.files import parse_json

# Far above any Qwen2.5, and below what a damaged file could ask for.
MOST = {
    "vocab_size": 1 << 22, "hidden_size": 1 << 16, "intermediate_size": 1 << 19, "num_hidden_layers": 512,
    "num_attention_heads": 1 << 12, "head_dim": 1 << 12,
}  # fmt: skip


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
            if not 1 <= getattr(self, name) <= most:
                expected = f"1 to {most:,}"
                raise JaxlvError(f"{name} is no size", where="model config", expected=expected, found=getattr(self, name))
        if self.num_key_value_heads < 1 or self.num_attention_heads % self.num_key_value_heads:
            raise JaxlvError(
                "num_attention_heads must be a multiple of num_key_value_heads",
                where="model config",
                found=f"{self.num_attention_heads} and {self.num_key_value_heads}",
            )
        if self.head_dim % 2:
            raise JaxlvError("RoPE needs an even head_dim", where="model config", found=self.head_dim)

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: Any = "config.json") -> ModelConfig:
        """The architecture that a config.json describes; whatever this project does not implement is refused by name."""
        if not isinstance(raw, Mapping):
            raise JaxlvError("not a model config", where=where, expected="a JSON object", found=type(raw).__name__)
        try:
            _refuse_other_architectures(raw, where)
            heads = int(raw["num_attention_heads"])
            hidden = int(raw["hidden_size"])
            return cls(
                vocab_size=int(raw["vocab_size"]),
                hidden_size=hidden,
                intermediate_size=int(raw["intermediate_size"]),
                num_hidden_layers=int(raw["num_hidden_layers"]),
                num_attention_heads=heads,
                num_key_value_heads=int(raw.get("num_key_value_heads") or heads),
                head_dim=int(raw.get("head_dim") or hidden // max(heads, 1)),
                rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
                rope_theta=_rope_theta(raw, where),
                tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
                max_position_embeddings=int(raw.get("max_position_embeddings", 32_768)),
            )
        except KeyError as missing:
            raise JaxlvError("a key is missing", where=where, expected=missing.args[0]) from None
        except JaxlvError as fault:
            raise JaxlvError(fault.what, where=where, expected=fault.expected, found=fault.found) from None
        except (TypeError, ValueError, OverflowError, AttributeError) as fault:
            raise JaxlvError(f"a value is of another type ({fault})", where=where) from None

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """The architecture in `folder`/config.json."""
        path = Path(folder) / "config.json"
        if not path.is_file():
            raise JaxlvError("no config.json in the model folder", where=folder, hint="give a Hugging Face folder")
        try:
            raw = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as fault:
            raise JaxlvError(f"unreadable config ({fault})", where=path, expected="JSON") from None
        return cls.from_hf(raw, where=path)

    def to_hf(self) -> dict[str, Any]:
        """The config.json that transformers reads as the same architecture."""
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_act": "silu",
            "use_sliding_window": False,
            "torch_dtype": "float32",
            **dataclasses.asdict(self),
        }


def _refuse_other_architectures(raw: Mapping[str, Any], where: Any) -> None:
    if raw.get("model_type") != "qwen2":
        raise JaxlvError(
            "not a Qwen2.5 model", where=where, expected='model_type "qwen2"', found=repr(raw.get("model_type"))
        )
    architectures = raw.get("architectures") or ["Qwen2ForCausalLM"]
    if "Qwen2ForCausalLM" not in architectures:
        raise JaxlvError("another architecture", where=where, expected="Qwen2ForCausalLM", found=architectures)
    if raw.get("use_sliding_window", False):
        raise JaxlvError("sliding-window attention is not implemented", where=where, found="use_sliding_window: true")
    if any(kind != "full_attention" for kind in raw.get("layer_types") or []):
        raise JaxlvError("only full attention is implemented", where=where, found=f"layer_types {raw['layer_types']}")
    if raw.get("hidden_act", "silu") != "silu":
        raise JaxlvError("only the SiLU activation is implemented", where=where, found=f"hidden_act {raw['hidden_act']}")
    if raw.get("quantization_config"):
        raise JaxlvError("quantised weights are not implemented", where=where, found="quantization_config")


def _rope_theta(raw: Mapping[str, Any], where: Any) -> float:
    """theta from `rope_parameters` (transformers 5) or `rope_theta`; any scaled variant of RoPE is refused."""
    for name in ("rope_scaling", "rope_parameters"):
        if raw.get(name) and not isinstance(raw[name], Mapping):
            raise JaxlvError(f"{name} is no rope type", where=where, expected="an object", found=repr(raw[name]))
    parameters = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind != "default":
        raise JaxlvError("only the default rope type is implemented", where=where, found=f"rope type {kind!r}")
    if parameters.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)) not in (None, 1, 1.0):
        raise JaxlvError("partial rotary embedding is not implemented", where=where, found="partial_rotary_factor")
    return float(parameters.get("rope_theta", raw.get("rope_theta", 10_000.0)))
