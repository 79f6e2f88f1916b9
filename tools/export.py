"""`jaxlv export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxlv.model.bits import Bits
from jaxlv.tools.console import Result, verb
from jaxlv.tools.options import idle

if TYPE_CHECKING:
    from jaxlv.lora.export import Exported


def export(
    run: str,
    /,
    *,
    to: Literal["peft", "merged", "base"],
    out: Path,
    base: str | None = None,
    side_head: bool = False,
    weights: Bits | None = None,
) -> Result:
    """Write a run's best adapter for other tools, in PEFT's format or merged into a Hugging Face checkpoint; or its base in
    few bits.

    An adapter or a checkpoint is read back, and its logits are compared with the run's, before it gets its name. If the
    weight of the LM head trained, PEFT reads it too, and in a checkpoint it unties the embedding. If its bias trained,
    PEFT's format has no place for it, and it goes to head.safetensors; a checkpoint has none either, so that --to merged
    needs --side-head.

        jaxlv export runs/mine --to peft --out adapter
        jaxlv export runs/mine --to merged --out checkpoint
        jaxlv export Qwen/Qwen2.5-7B --to base --weights int8 --out base

    With --to base, codes and scales of the base of a run, or of a model, are written: what model.weights makes when it loads
    them, to the last bit. Nothing is merged into few bits.

    Args:
        run: run folder; with --to base also a folder, hub id or name of a model
        to: an adapter, a whole checkpoint, or the base in few bits
        out: folder to write; what exists is never replaced, as it may be the base
        base: what PEFT is to load as the base; the run's model.path if not given
        side_head: let a checkpoint go without the bias of its head
        weights: bits of the base's projections; those that the run was trained over if not given
    """
    from jaxlv.studies.handover import export_base, export_run

    if to == "base":
        idle("a base in few bits has no adapter", base=base, side_head=side_head)
        return written(export_base(run, out, weights))
    idle("adapters are merged into full weights, and never into few bits", weights=weights)
    idle("only --to peft names a base", base=base if to == "merged" else None)
    return written(export_run(Path(run), to, out, base, side_head))


def written(found: Exported) -> Result:
    """Returns what was written; the difference is a share of the largest logit."""
    notes = [f"note: {note}" for note in found.notes]
    text = f"{found.folder}: read back; logits differ by at most {found.difference:.1e} of the largest"
    tree = {"folder": str(found.folder), "largest_relative_difference": found.difference, "notes": list(found.notes)}
    return Result("\n".join([*notes, text]), tree)


app = verb(export)
