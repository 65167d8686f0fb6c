"""Compiles the kernels for an H100 without one, and prints what registers and stack they take.

A JSON object per line, the last one of a kernel with too few registers. A stack is where the
compiler puts what the registers cannot hold. Run in a process of its own: the tests have Triton
interpret kernels instead of compiling them.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nnunet_meep.losses import kernels

TARGET = GPUTarget("cuda", 90, 32)
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
CLASSES = (2, 4, 16, 105, 128)


def problems() -> list[dict]:
    """Each K in half and full precision; some in the other half, of regions, of the other term."""
    every = [
        *itertools.product(CLASSES, ("fp16", "fp32"), [False]),
        (4, "bf16", False),
        (128, "bf16", False),
    ]
    some = [(k, "fp16", True) for k in (2, 16, 128)]
    all_of_them = [
        {"n_channels": k, "dtype": dtype, "regions": regions, "term": "MEEP_KL"}
        for k, dtype, regions in [*every, *some]
    ]
    entropy = {"n_channels": 105, "dtype": "fp16", "regions": False, "term": "MEEP_H"}
    return [*all_of_them, entropy]


def compiled(
    name: str, problem: dict, options: dict | None = None, ones: tuple[str, ...] = ()
) -> dict[str, int]:
    """Registers of a thread, and bytes of its stack.

    ``ones``: arguments that are 1, of which Triton makes constants.
    """
    constants = kernels.constants_of(
        problem["n_channels"], DTYPES[problem["dtype"]], problem["term"], True, problem["regions"]
    )
    logits, target = "*" + problem["dtype"], "*u8" if problem["regions"] else "*i16"
    if name == "compose_kernel":
        constants = kernels.compose_constants(constants)
        types = ["*fp32"] * 3 + ["i32"] * 2 + ["fp32"] * 4
        constants |= {"FIRST": 1, "BATCH_DICE": False}
    elif name == "forward_kernel":
        types = [logits, target, "*fp32", "i32", "i32"]
    else:
        types = [logits, target, "*fp32", "*fp32", "*fp32", logits, "i32", "i32"]
    n_warps = constants.pop("num_warps")
    constants |= dict.fromkeys(ones, 1)
    function = getattr(kernels, name)
    signature = dict(zip(function.arg_names, types, strict=False))
    aligned = [i for i, kind in enumerate(types) if kind.startswith("*")]
    if name != "compose_kernel":
        aligned.append(types.index("i32"))  # the number of voxels of nnU-Net's patches
    source = ASTSource(
        function,
        signature | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    kernel = triton.compile(
        source, target=TARGET, options={"num_warps": n_warps, **(options or {})}
    )
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [cuobjdump, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", text).groups()
    return {"registers": int(registers), "stack": int(stack)}


def main() -> None:
    for problem in problems():
        for name in ("forward_kernel", "compose_kernel", "backward_kernel"):
            print(json.dumps({"kernel": name, **problem, **compiled(name, problem)}), flush=True)
    # The smallest resolution of deep supervision, a batch of one.
    small = {"n_channels": 2, "dtype": "fp16", "regions": False, "term": "MEEP_KL"}
    for ones in (("n_programs",), ("n_programs", "n_samples")):
        resources = compiled("compose_kernel", small, ones=ones)
        print(json.dumps({"kernel": "compose_kernel", **small, **resources}), flush=True)
    # With too few registers: what a stack looks like.
    large = {"n_channels": 16, "dtype": "fp32", "regions": False, "term": "MEEP_H"}
    print(json.dumps(compiled("backward_kernel", large, {"maxnreg": 32})), flush=True)


if __name__ == "__main__":
    main()
