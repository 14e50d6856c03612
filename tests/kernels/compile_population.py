"""Compile the kernels of the fused engine on a GPU without one, and print what they take as JSON.

`python -m tests.kernels.compile_population sm_90`. Needs numba-cuda, and libnvvm, NVRTC and ptxas
of NVIDIA's wheels or of an installed toolkit.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numba.cuda.dispatcher
from numba import cuda, types

from streamtrain.kernels import cuda_population, cuda_split
from streamtrain.kernels.activations import RELU, SILU
from streamtrain.kernels.cuda_layout import choose_layout
from streamtrain.kernels.updates import ADAM

#: (widths, activation, batch size): the largest tile and a small one.
KERNELS = (((4, 32, 32, 1), RELU, 1024), ((4, 16, 16, 1), SILU, 32))


def find_ptxas() -> str | None:
    """Return the assembler of the PATH, of the toolkit, or of a wheel."""
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin")
    wheels = [
        str(path.parent) for path in Path(sys.prefix).glob("lib/python*/*/nvidia/*/bin/ptxas")
    ]
    return shutil.which("ptxas", path=os.pathsep.join([os.environ["PATH"], str(toolkit), *wheels]))


def assemble(ptx: str, architecture: str) -> dict[str, int]:
    """Return the registers of a thread, and the bytes that are spilled."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "kernel.ptx")
        text.write_text(ptx)
        ptxas = find_ptxas()
        assert ptxas is not None
        command = [ptxas, f"-arch={architecture}", "-O3", "-v", str(text), "-o", f"{text}.cubin"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    return {
        "registers": max(map(int, re.findall(r"Used (\d+) registers", told))),
        "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", told))),
    }


def main(architecture: str) -> None:
    major, minor = int(architecture[3:-1]), int(architecture[-1])
    device = SimpleNamespace(compute_capability=(major, minor))
    numba.cuda.dispatcher.get_current_device = lambda: device  # named, not asked
    found = []
    for widths, activation, batch_size in KERNELS:
        layout = choose_layout(widths, activation == SILU, batch_size, 256, 227 * 1024)
        assert layout is not None
        for name, function, arguments in (
            (
                "advance",
                cuda_population.make_advance(layout, activation, ADAM),
                cuda_population.ADVANCE,
            ),
            (
                "evaluate",
                cuda_population.make_evaluate(layout, activation),
                cuda_population.EVALUATE,
            ),
            ("gradient", cuda_split.make_gradient(layout, activation), cuda_split.GRADIENT),
            ("step", cuda_split.make_step(layout, ADAM), cuda_split.STEP),
        ):
            signature = types.void(*arguments)
            ptx, _ = cuda.compile_ptx(function, signature, cc=device.compute_capability)
            kernel = {"kernel": name, "widths": widths, "tile": layout.tile}
            found.append(kernel | assemble(ptx, architecture))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
