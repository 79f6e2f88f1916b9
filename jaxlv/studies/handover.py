"""What is written for other tools: a run's adapter or a sum of adapters, in PEFT's format or merged into a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jaxlv.config import LoraConfig
from jaxlv.errors import JaxlvError
from jaxlv.lora import adapters, arithmetic, export
from jaxlv.lora.export import Exported
from jaxlv.model.bits import Bits
from jaxlv.model.weights import base_of, check_full, dtype_of, load_pretrained, resolve
from jaxlv.results.adapters import Agreement
from jaxlv.runs import run
from jaxlv.runs.records import MANIFEST, read_config
from jaxlv.storage.foreign import companions, hub_revision

Format = Literal["peft", "merged"]


def export_run(folder: Path, to: Format, out: Path, base: str | None = None, side_head: bool = False) -> Exported:
    """Writes the best adapter of a run to a new folder `out`, and reads it back.

    `base` is what PEFT is to load as the base, the run's own if None. A bias of the head that trained has no place in a
    checkpoint; `side_head` puts it into a file beside. Raises JaxlvError if the run does not read, if `out` exists, or if
    what is read back computes other logits.
    """
    finished = run.load_run(folder)
    tuned, settings = finished.tuned, finished.config.model
    model, params, lora = tuned.model, tuned.variables["params"], tuned.variables["lora"]
    own, merged, apart = base_of(settings), to == "merged", ""
    if settings.weights != "full" and merged:  # the levels of few bits do not hold a sum: merged is into the full base
        model, params = load_pretrained(own, settings.dtype, settings.attention)
        full = model, {"params": params, "lora": lora}
        apart = f": by {export.apart((tuned.model, tuned.variables), full, folder):.2g} of the largest logit"
    if merged:
        found = export.export_merged(out, model, params, lora, own, side_head)
    else:
        origin = adapters.Origin(base or settings.path, None if base else hub_revision(own), tuned.codec)
        found = export.export_peft(out, model, params, lora, finished.config.lora, origin)
    if settings.weights == "full":
        return found
    note = f"it was trained over the base in {settings.weights}, and over full weights its logits are others{apart}"
    return replace(found, notes=(*found.notes, note))


def export_base(subject: str, out: Path, bits: Bits | None = None) -> Exported:
    """Writes the base of a run, or a model by its folder, hub id or name, in 8 or 4 bits to a new folder `out`, and reads it
    back. Its other numbers stay in the type of the base's file. `bits` are those that a run was trained over if None.

    Raises JaxlvError if neither says how many bits, if the base is in few bits already, or if `out` exists.
    """
    scheme: str = bits or "full"
    if (Path(subject) / MANIFEST).is_file():
        settings = read_config(Path(subject)).model
        base, scheme = base_of(settings), bits or settings.weights
    else:
        base = resolve(subject)
    if scheme == "full":
        hint = f"full weights are in {base} already"
        raise JaxlvError("in how many bits", where="--weights", expected="int8 or nf4", found="none", hint=hint)
    check_full(base)
    model, params = load_pretrained(base, dtype_of(base), weights=scheme)
    return export.export_bits(out, model, params, base)


@dataclass(frozen=True)
class Base:
    """The model that adapters belong to: a Hugging Face folder, a hub id with a revision, or "embedded"."""

    name: str
    revision: str | None = None
    dtype: str = "float32"


@dataclass(frozen=True)
class Merged:
    """A sum of adapters that was written, and how far two agree in each projection."""

    written: Exported
    agreement: Sequence[Agreement] | None  # None unless there are two adapters


def merge(
    folders: Sequence[Path],
    base: Base,
    to: Format,
    out: Path,
    weights: Sequence[float] | None = None,
    side_head: bool = False,
) -> Merged:
    """Writes the weighted sum of adapters in PEFT's format to a new folder `out`; every weight is 1 if None.

    Raises JaxlvError if an adapter or the base does not read, if they do not fit each other, or if `out` exists.
    """
    place = resolve(base.name, base.revision)
    if to == "merged":
        companions(place)  # raises, before any work, if a file cannot go with the checkpoint
    model, params = load_pretrained(place, base.dtype)
    loras = [adapters.load_adapter(folder, model, base.name) for folder in folders]
    agreement = None
    if len(loras) == 2:
        agreement = [Agreement(**row) for row in arithmetic.compare(*loras).to_dict("records")]
    alone = len(loras) == 1 and weights is None and (to == "merged" or adapters.is_uniform(loras[0]))
    lora = loras[0] if alone else arithmetic.add(loras, weights)
    if to == "merged":
        return Merged(export.export_merged(out, model, params, lora, place, side_head), agreement)
    config = adapters.lora_config(folders[0], lora) if alone else _summed(lora)
    origin = adapters.Origin(base.name, hub_revision(place), adapters.read_codec(folders[0]))
    return Merged(export.export_peft(out, model, params, lora, config, origin), agreement)


def _summed(lora: arithmetic.Tree) -> LoraConfig:
    """Returns the settings of a sum: its updates are BA itself."""
    rank = max(len(a) for _, a, _ in arithmetic.updates(lora).values())
    return LoraConfig(rank, float(rank))
