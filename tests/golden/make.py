"""Write the HLO texts in this folder: small programs of the project, compiled for an NVIDIA H100 that is not there; and
compiled.json: the kernels and bytes of these texts, and of a small train step and decode loop (tests/test_compiled.py).

    JAX_PLATFORMS=cpu python -m tests.golden.make [figures]    # needs jaxlv[cuda-compiler]; figures: only compiled.json

Each file begins with the versions of its compiler; names of files and lines are taken out.
"""

import gzip
import json
import re
import sys
from pathlib import Path

import jax
import jaxlib
from jax._src.cudnn import fused_attention_stablehlo as cudnn  # asks a device for cuDNN's version, and there is none

from benchmarks import compiled
from jaxlv.flops.audit import compiled_for
from jaxlv.flops.counting.launches import launches
from jaxlv.flops.targets import cuda
from tests.test_compiled import SMALL
from tests.test_flops_cuda import CASES, program_of
from tests.test_hlo_turns import sampled

NOISE = re.compile(
    r' (stack_frame_id=\d+|scheduling_name="[^"]*"|deduplicated_name="[^"]*")|, frontend_attributes=\{[^}]*\}+'
)
TABLES = re.compile(r"^(FileNames|FunctionNames|FileLocations|StackFrames)\n(.+\n)*\n?", re.MULTILINE)

FOLDER = Path(__file__).parent


def write_texts() -> None:
    """Compiles the small programs and writes their texts."""
    cudnn.check_cudnn_version = lambda: 91_000
    cudnn.check_compute_capability = lambda *_: True
    target = cuda()
    programs = {name: (program_of(case), case.options) for name, case in CASES.items()}
    programs |= {"generation": (sampled().program, {}), "generation-guesses": (sampled(guesses=True).program, {})}
    for name, (program, special) in programs.items():
        options = {**target.options, **special}
        text = compiled_for(program, target._replace(options=options))[2].as_text()
        text = NOISE.sub("", TABLES.sub("", text))
        head = f"// jax {jax.__version__}, jaxlib {jaxlib.__version__}; {target.words}; {options}\n"
        path = FOLDER / f"{name}.hlo.gz"
        path.write_bytes(gzip.compress((head + text).encode(), mtime=0))
        print(path.name, f"{path.stat().st_size:,} bytes")


def write_figures() -> None:
    """Writes the kernels and bytes of the texts and of the programs of test_compiled.py."""
    texts = {}
    for path in sorted(FOLDER.glob("*.hlo.gz")):
        kernels = launches(gzip.decompress(path.read_bytes()).decode(), 1).kernels
        total = sum(one.bytes * one.times for one in kernels)
        texts[path.name.partition(".")[0]] = {"kernels": sum(one.times for one in kernels), "bytes": total}
    found = compiled.measured("h200", compiled.PROGRAMS, shape=SMALL)
    programs = {name: {key: one[key] for key in ("kernels", "bytes")} for name, one in found.items()}
    tree = {"texts": texts, "programs": programs}
    (FOLDER / "compiled.json").write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["figures"]:
        write_texts()
    write_figures()
