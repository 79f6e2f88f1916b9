"""`jaxlv export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxlv.tools.console import Result, start, verb

if TYPE_CHECKING:
    from jaxlv.lora.export import Exported


def export(
    run: Path, /, *, to: Literal["peft", "merged"], out: Path, base: str | None = None, side_head: bool = False
) -> Result:
    """Write a run's best adapter for other tools: in PEFT's format, or merged into a whole Hugging Face checkpoint.

    Either is read back, and its logits are compared with the run's, before it gets its name. A head that trained beside the
    adapters has no slot in PEFT's format: it lies in head.safetensors. In a checkpoint its weight unties the embedding; its
    bias has no place, so that --to merged refuses it unless --side-head puts it into head.safetensors.

        jaxlv export runs/mine --to peft --out adapter
        jaxlv export runs/mine --to merged --out checkpoint

    Parameters
    ----------
    run
        run folder
    to
        an adapter, or a whole checkpoint
    out
        folder to write; it must not exist
    base
        what PEFT is to load as the base; the run's model.path if not given
    side_head
        let a checkpoint go without the bias of its head
    """
    from jaxlv.studies.handover import export_run

    found = export_run(run, to, out, base, side_head)
    return Result(told(found), tree_of(found))


def told(found: Exported) -> str:
    """Returns what was written, in words."""
    notes = [f"note: {note}" for note in found.notes]
    return "\n".join([*notes, f"{found.folder}: read back; logits differ by at most {found.difference:.1e} of the largest"])


def tree_of(found: Exported) -> dict[str, Any]:
    """Returns what was written, for --json; the difference is a share of the largest logit."""
    return {"folder": str(found.folder), "largest_relative_difference": found.difference, "notes": list(found.notes)}


app = verb(export)

if __name__ == "__main__":
    start(app)
