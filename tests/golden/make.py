"""Write the HLO texts in this folder: small programs of the project, compiled for an NVIDIA H100 that is not there.

    JAX_PLATFORMS=cpu python tests/golden/make.py        # needs jaxlv[cuda-compiler]

Each file begins with the versions of its compiler; names of files and lines are taken out.
"""

import gzip
import re
from pathlib import Path

import jax
import jaxlib
from jax._src.cudnn import fused_attention_stablehlo as cudnn  # asks a device for cuDNN's version, and there is none

from jaxlv.flops.audit import compiled_for
from jaxlv.flops.targets import cuda
from tests.test_flops_cuda import CASES, program_of
from tests.test_hlo_turns import sampled

NOISE = re.compile(
    r' (stack_frame_id=\d+|scheduling_name="[^"]*"|deduplicated_name="[^"]*")|, frontend_attributes=\{[^}]*\}+'
)
TABLES = re.compile(r"^(FileNames|FunctionNames|FileLocations|StackFrames)\n(.+\n)*\n?", re.MULTILINE)

if __name__ == "__main__":
    cudnn.check_cudnn_version = lambda: 91_000
    cudnn.check_compute_capability = lambda *_: True
    target = cuda()
    programs = {name: (program_of(case), case.options) for name, case in CASES.items()}
    for name, (program, special) in {**programs, "generation": (sampled().program, {})}.items():
        options = {**target.options, **special}
        text = compiled_for(program, target._replace(options=options))[2].as_text()
        text = NOISE.sub("", TABLES.sub("", text))
        head = f"// jax {jax.__version__}, jaxlib {jaxlib.__version__}; {target.words}; {options}\n"
        path = Path(__file__).parent / f"{name}.hlo.gz"
        path.write_bytes(gzip.compress((head + text).encode(), mtime=0))
        print(path.name, f"{path.stat().st_size:,} bytes")
