"""`jaxlv export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxlv.tools.console import Result, verb

if TYPE_CHECKING:
    from jaxlv.lora.export import Exported


def export(
    run: Path, /, *, to: Literal["peft", "merged"], out: Path, base: str | None = None, side_head: bool = False
) -> Result:
    """Write a run's best adapter for other tools: in PEFT's format, or merged into a whole Hugging Face checkpoint.

    Either is read back, and its logits are compared with the run's, before it gets its name. If the weight of the LM head
    trained, PEFT reads it too, and in a checkpoint it unties the embedding. If its bias trained, PEFT's format has no place
    for it, and it goes to head.safetensors; a checkpoint has none either, so that --to merged needs --side-head.

        jaxlv export runs/mine --to peft --out adapter
        jaxlv export runs/mine --to merged --out checkpoint

    Args:
        run: run folder
        to: an adapter, or a whole checkpoint
        out: folder to write; what exists is never replaced, as it may be the base
        base: what PEFT is to load as the base; the run's model.path if not given
        side_head: let a checkpoint go without the bias of its head
    """
    from jaxlv.studies.handover import export_run

    return written(export_run(run, to, out, base, side_head))


def written(found: Exported) -> Result:
    """Returns what was written; the difference is a share of the largest logit."""
    notes = [f"note: {note}" for note in found.notes]
    text = f"{found.folder}: read back; logits differ by at most {found.difference:.1e} of the largest"
    tree = {"folder": str(found.folder), "largest_relative_difference": found.difference, "notes": list(found.notes)}
    return Result("\n".join([*notes, text]), tree)


app = verb(export)
