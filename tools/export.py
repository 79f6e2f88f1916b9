"""Write a run's best adapter for other tools: in PEFT's format, or merged into a whole Hugging Face checkpoint.

    jaxlv export runs/mine --to peft --out DIR
    jaxlv export runs/mine --to merged --out DIR [--side-head]

Either is read back, and its logits are compared with the run's, before it gets its name. A head that trained beside the
adapters has no slot in PEFT's format: it lies in head.safetensors. In a checkpoint its weight unties the embedding; its bias
has no place, so that --to merged refuses it unless --side-head puts it into head.safetensors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jaxlv.lora import export
from jaxlv.lora.adapters import Origin
from jaxlv.model.weights import base_of
from jaxlv.runs import run
from jaxlv.storage.foreign import hub_revision
from jaxlv.tools.console import describe, program


def arguments() -> argparse.ArgumentParser:
    parser = describe("export", __doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--to", choices=("peft", "merged"), required=True, help="an adapter, or a whole checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, which must not be there")
    parser.add_argument("--base", help="what PEFT is to load as the base (default: the run's model.path)")
    parser.add_argument("--side-head", action="store_true", help="let a checkpoint go without the bias of its head")
    return parser


def show(found: export.Exported) -> None:
    """Say what an export has come to."""
    for note in found.notes:
        print(f"note: {note}")
    print(f"{found.folder}: read back; logits differ by at most {found.difference:.1e} of the largest")


@program(arguments)
def main(options: argparse.Namespace) -> None:
    finished = run.load_run(options.run)
    tuned, settings = finished.tuned, finished.config.model
    model, params, lora = tuned.model, tuned.variables["params"], tuned.variables["lora"]
    base = base_of(settings)
    if options.to == "peft":
        name, revision = options.base or settings.path, None if options.base else hub_revision(base)
        origin = Origin(name, revision, tuned.codec)
        show(export.export_peft(options.out, model, params, lora, finished.config.lora, origin))
    else:
        show(export.export_merged(options.out, model, params, lora, base, options.side_head))


if __name__ == "__main__":
    main()
