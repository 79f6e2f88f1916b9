"""`jaxlv merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from jaxlv.config import Dtype
from jaxlv.settings import Between
from jaxlv.tools.console import Result, shown, verb
from jaxlv.tools.export import written
from jaxlv.tools.options import numbers


def merge(
    adapters: tuple[Path, ...],
    /,
    *,
    model: str,
    out: Path,
    to: Literal["merged", "peft"] = "merged",
    weights: Annotated[tuple[float, ...] | None, numbers(float, Between(-1000, 1000))] = None,
    revision: str | None = None,
    dtype: Dtype = "float32",
    side_head: bool = False,
) -> Result:
    """Add adapters, each with a weight, and write the sum: merged into a checkpoint, or as one adapter.

    The update of each projection is the weighted sum of the adapters'; as an adapter its rank is the sum of their ranks. For
    two adapters a table shows how far they agree: the cosine of their updates, and the overlap of the subspaces that these
    read and write, by layer.

        jaxlv merge adapter --model embedded --out checkpoint
        jaxlv merge one other --weights 0.5,0.5 --model embedded --to peft --out sum

    Args:
        adapters: folders in PEFT's format
        model: a Hugging Face folder, a hub id, or embedded
        out: folder to write; what exists is never replaced, as it may be the base
        to: a checkpoint, or an adapter
        weights: one for each adapter, such as 0.7,0.3; 1 each if not given
        revision: commit, tag or branch of a hub id
        dtype: type of the checkpoint's weights
        side_head: let a checkpoint go without the bias of its head
    """
    from jaxlv.results.adapters import Agreement
    from jaxlv.studies import handover

    found = handover.merge(adapters, handover.Base(model, revision, dtype), to, out, weights, side_head)
    made = written(found.written)
    if found.agreement is None:
        return made
    table = shown(found.agreement, *Agreement.quantities().values())
    return Result(f"{table}\n{made.text}", {**made.tree, "agreement": [one.tree() for one in found.agreement]})


app = verb(merge)
