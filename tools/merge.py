"""Add adapters, each with a weight, and write the sum: merged into a checkpoint, or as one adapter.

    jaxlv merge ADAPTER --model MODEL --out DIR
    jaxlv merge ADAPTER ADAPTER --weights 0.5,0.5 --model MODEL --to peft --out DIR

ADAPTER is a folder in PEFT's format, MODEL a Hugging Face folder, a hub id, or embedded. The update of each projection is
the weighted sum of the adapters'; as an adapter its rank is the sum of their ranks. Of two adapters it is printed how far
they agree: the cosine of their updates, and the overlap of the subspaces that these read and write, by layer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jaxlv.config import LoraConfig, ModelSettings
from jaxlv.lora import adapters, arithmetic, export
from jaxlv.model.weights import load_pretrained, resolve
from jaxlv.settings import Between
from jaxlv.storage.foreign import companions, hub_revision
from jaxlv.tools.console import NumberType, describe, option, print_columns, program
from jaxlv.tools.export import show


def arguments() -> argparse.ArgumentParser:
    parser = describe("merge", __doc__)
    parser.add_argument("adapter", type=Path, nargs="+", help="folders in PEFT's format")
    parser.add_argument("--model", required=True, help="a Hugging Face folder, a hub id, or embedded")
    parser.add_argument("--revision", help="of a hub id: a commit, tag or branch")
    words = "one for each adapter, such as 0.7,0.3 (default: 1 each)"
    parser.add_argument("--weights", type=NumberType(float, Between(-1000, 1000), several=True), help=words)
    parser.add_argument("--to", choices=("merged", "peft"), default="merged", help="a checkpoint (default), or an adapter")
    parser.add_argument("--dtype", default="float32", **option(ModelSettings, "dtype", "of the checkpoint"))
    parser.add_argument("--out", type=Path, required=True, help="folder to write, which must not be there")
    parser.add_argument("--side-head", action="store_true", help="let a checkpoint go without the bias of its head")
    return parser


def shown(value: str | float) -> str:
    """A cell of the comparison."""
    return value if isinstance(value, str) else f"{value:.3g}"


@program(arguments)
def main(options: argparse.Namespace) -> None:
    base = resolve(options.model, options.revision)
    if options.to == "merged":
        companions(base)  # what cannot go with the checkpoint ends this before any work
    model, params = load_pretrained(base, options.dtype)
    loras = [adapters.load_adapter(folder, model, options.model) for folder in options.adapter]
    if len(loras) == 2:
        table = arithmetic.compare(*loras)
        rows = [[str(layer), *map(shown, values)] for layer, *values in table.itertuples(index=False)]
        print_columns([[column.replace("_", " ") for column in table], *rows], right=(0, *range(2, 7)))
    alone = len(loras) == 1 and options.weights is None
    lora = loras[0] if alone else arithmetic.add(loras, options.weights)
    if options.to == "merged":
        show(export.export_merged(options.out, model, params, lora, base, options.side_head))
        return
    config = adapters.lora_config(options.adapter[0], lora) if alone else summed(lora)
    origin = adapters.Origin(options.model, hub_revision(base), adapters.read_codec(options.adapter[0]))
    show(export.export_peft(options.out, model, params, lora, config, origin))


def summed(lora: arithmetic.Tree) -> LoraConfig:
    """The settings of a sum: its updates are BA itself."""
    rank = max(len(a) for _, a, _ in arithmetic.updates(lora).values())
    return LoraConfig(rank, float(rank))


if __name__ == "__main__":
    main()
