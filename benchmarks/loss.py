"""What does a loss cost? Forward and backward of ours beside nnU-Net's own Dice + CE.

    python benchmarks/loss.py -o benchmarks/loss.md

On logits of (2, K, 96, 96, 96) on a CPU in float32, of (2, K, 128, 128, 128) on a GPU in float16
and bfloat16 under autocast: what each loss takes in time (median of interleaved runs) and in memory
beside logits and target (peak; on a CPU each in a process of its own). "composed" is nnU-Net's loss
and the term computed beside it, which is what the closed form replaces. On a GPU nnU-Net compiles
its Dice; "eager" is without that.

On a CPU also: the same where nearly all voxels are misclassified, as at the start of a training,
and beside other processes (``loss_neighbours.py``).

Another table counts bytes per logit: what each has to move to and from memory, and what it keeps
for the backward pass beside logits and target. Of nnU-Net's code and of the composition these are
the tensors that torch's operations read and write (a compiler may save some of that); ours reads
logits and target twice, writes the gradient once, and what it keeps it writes and reads.

A table has time and memory of the rivals of MEEP, measured as in the first.

At the end whole training steps of nnU-Net's trainer and of ``nnUNetTrainerMEEP_KL`` in turn: on a
GPU with nnU-Net's default network and a patch of 128 x 128 x 128, on a CPU with a small one.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import loss_neighbours
import torch
from loss_cases import DTYPES, LOSSES, RIVALS, Case, medians
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from tqdm import tqdm
from training_step import step_seconds

CLASSES = (2, 4, 16, 105)
#: At most, in the sections that repeat the first table: with more they take too long.
FEW_CLASSES = 16
VERSIONS = ("nnU-Net", "composed", "ours, torch")


def peak_bytes(name: str, case: Case) -> float:
    """Peak memory beyond what was used before, in bytes; on a CPU to be called in a new process."""
    logits, target = case.batch()
    loss = case.loss(name)
    small = logits[:, :, :8, :8, :8].clone().requires_grad_()
    case.once(loss, small, target[:, :, :8, :8, :8])  # warm-up: loads libraries, compiles
    logits.requires_grad_()
    if case.device == "cuda":
        case.once(loss, logits, target)  # what is compiled may be for one shape
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        case.once(loss, logits, target)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak so far
    before = _status("VmRSS")
    case.once(loss, logits, target)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(x for x in lines if x.startswith(name)).split()[1])


def memory_of(name: str, case: Case) -> float:
    """:func:`peak_bytes`, on a CPU in a new process."""
    if case.device == "cuda":
        return peak_bytes(name, case)
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import loss; "
        "print(json.dumps(loss.peak_bytes(sys.argv[2], loss.Case(**json.loads(sys.argv[3])))))"
    )
    here = str(Path(__file__).resolve().parent)
    command = [sys.executable, "-c", code, here, name, json.dumps(asdict(case))]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout.splitlines()[-1])


class Traffic(TorchDispatchMode):
    """Counts the bytes of all tensors that torch's operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            for x in tree_flatten((args, kwargs, result))[0]:
                if isinstance(x, Tensor):  # an expanded tensor has less storage than nbytes
                    self.n_bytes += min(x.nbytes, x.untyped_storage().nbytes())
        return result


def bytes_per_logit(name: str, case: Case) -> tuple[float, float]:
    """Bytes moved, and bytes kept for the backward pass, per logit; nothing compiled."""
    case = replace(case, size=min(case.size, 32))
    logits, target = case.batch()
    logits.requires_grad_()
    if name == "ours, torch":
        loss = replace(case, device="cpu").loss("ours")
    else:
        loss = case.loss(f"{name}, eager")
    given = {x.untyped_storage().data_ptr() for x in (logits, target)}
    kept: dict[int, Tensor] = {}  # keeps the tensors alive, so that no address is used twice

    def pack(x: Tensor) -> Tensor:
        kept.setdefault(x.untyped_storage().data_ptr(), x)
        return x

    with (
        Traffic() as traffic,
        torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x),
    ):
        case.once(loss, logits, target)
    n_kept = sum(x.untyped_storage().nbytes() for ptr, x in kept.items() if ptr not in given)
    n_moved = traffic.n_bytes
    if name == "ours, torch":
        n_moved = 3 * logits.nbytes + 2 * target.nbytes + 2 * n_kept
    return n_moved / logits.numel(), n_kept / logits.numel()


def costs(cases: list[Case], names: tuple[str, ...], n_rounds: int) -> list[str]:
    """Time and memory of each case."""
    digits = 1 if cases[0].device == "cuda" else 0
    several = len({case.dtype for case in cases}) > 1
    head = ["K", *["dtype"][:several], *(f"{name}, ms" for name in names), "ours / nnU-Net"]
    head += [*(f"{name}, MB" for name in names), "ours / nnU-Net"]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"]
    for case in tqdm(cases, unit="case", leave=False):
        if case.device == "cuda":
            torch.compiler.reset()  # so that what is compiled is for this case
        memory = {name: memory_of(name, case) for name in names}
        seconds = medians(case.seconds(names, n_rounds))
        cells = [str(case.n_classes), *[case.dtype][:several]]
        cells += [f"{1e3 * seconds[name]:.{digits}f}" for name in names]
        cells.append(f"{seconds['ours'] / seconds['nnU-Net']:.2f}")
        cells += [f"{memory[name] / 1e6:.0f}" for name in names]
        cells.append(f"{memory['ours'] / memory['nnU-Net']:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def traffic(cases: list[Case]) -> list[str]:
    """Bytes per logit."""
    lines = [
        "## Bytes",
        "",
        "Bytes per logit that each loss has to move, and bytes that it keeps for the backward pass "
        "in addition to logits and target. For nnU-Net's code and the composed loss, this is what "
        "torch's operations read and write (a compiler may save some of that). Ours reads logits "
        "and target twice, writes the gradient once, and writes and reads what it keeps.",
        "",
        "| K | nnU-Net moves | composed | ours, torch | ours, Triton | nnU-Net keeps | composed "
        "| ours, torch | ours, Triton |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in cases:
        n_bytes = {name: bytes_per_logit(name, case) for name in VERSIONS}
        of_logit = getattr(torch, case.dtype).itemsize
        # The kernels keep nothing; a test of them checks that. A label has two bytes.
        n_bytes["ours, Triton"] = (3 * of_logit + 2 * 2 / case.n_classes, 0.0)
        cells = [f"{n_bytes[name][i]:.1f}" for i in (0, 1) for name in n_bytes]
        lines.append(f"| {' | '.join([str(case.n_classes), *cells])} |")
    return [*lines, ""]


def first_steps(cases: list[Case], n_rounds: int) -> list[str]:
    """Times where nearly all voxels are misclassified."""
    lines = [
        "## At the start of a training",
        "",
        "The same times, when nearly all voxels are misclassified.",
        "",
        "| K | nnU-Net, ms | ours | ours / nnU-Net |",
        "| --- | --- | --- | --- |",
    ]
    for case in cases:
        seconds = medians(replace(case, wrong=True).seconds(("nnU-Net", "ours"), n_rounds))
        own, ours = seconds.values()
        lines.append(
            f"| {case.n_classes} | {1e3 * own:.0f} | {1e3 * ours:.0f} | {ours / own:.2f} |"
        )
    return [*lines, ""]


def rivals(cases: list[Case], n_rounds: int) -> list[str]:
    """Time and memory of each rival."""
    names = ("nnU-Net", *RIVALS)
    digits = 1 if cases[0].device == "cuda" else 0
    heading = [
        "loss",
        *(f"K = {case.n_classes}, {unit}" for case in cases for unit in ("ms", "MB")),
    ]
    rows = {name: [name] for name in names}
    for case in tqdm(cases, unit="case", leave=False):
        seconds = medians(case.seconds(names, n_rounds))
        memory = {name: memory_of(name, case) for name in names}
        for values, unit, n_digits in ((seconds, 1e3, digits), (memory, 1e-6, 0)):
            for name in names:
                times = "" if name == "nnU-Net" else f" ({values[name] / values['nnU-Net']:.2f})"
                rows[name].append(f"{unit * values[name]:.{n_digits}f}{times}")
    return [
        "## The rivals",
        "",
        "In brackets, the factor relative to nnU-Net's Dice + CE. DSCpp takes the place of Dice + "
        "CE; CP is in closed form; the others are computed in addition to nnU-Net's own loss. "
        "Compare only within a table: the load on the machine differed between them.",
        "",
        f"| {' | '.join(heading)} |",
        f"| {' | '.join(['---'] * len(heading))} |",
        *(f"| {' | '.join(cells)} |" for cells in rows.values()),
        "",
    ]


def steps(device: str, n_rounds: int, size: int | None) -> list[str]:
    digits = 1 if device == "cuda" else 0
    own, meep = step_seconds(device, n_rounds, size).values()
    return [
        "## Training steps",
        "",
        f"A training step (K = 3, batch 2): {1e3 * own:.{digits}f} ms with `nnUNetTrainer`, "
        f"{1e3 * meep:.{digits}f} ms with `nnUNetTrainerMEEP_KL`, {meep / own:.3f} times as long "
        "(medians).",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("-o", type=Path, help="Markdown file to write the table into as well")
    parser.add_argument("-device", choices=("cpu", "cuda"), default=default)
    parser.add_argument("--rounds", type=int, default=15, help="of each (default: 15)")
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES, metavar="K")
    parser.add_argument("--size", type=int, help="edge of the patch, to try the script out")
    options = parser.parse_args()
    device = options.device
    size = options.size or (128 if device == "cuda" else 96)
    cases = [Case(k, device, dtype, size) for k in options.classes for dtype in DTYPES[device]]
    kinds = "float16 and bfloat16 under autocast" if device == "cuda" else "float32"
    few = [case for case in cases if case.n_classes <= FEW_CLASSES]
    of_one_dtype = [case for case in cases if case.dtype == DTYPES[device][0]]
    sections: list[Callable[[], list[str]]] = [
        lambda: costs(cases, LOSSES[device], options.rounds),
        lambda: traffic(of_one_dtype),
        lambda: rivals([case for case in of_one_dtype if case in few], options.rounds),
        lambda: steps(device, 2 * options.rounds, options.size),
    ]
    if device == "cpu":
        sections[1:1] = [
            lambda: first_steps(few, options.rounds),
            lambda: loss_neighbours.table([x.n_classes for x in few], size, options.rounds),
        ]
    kinds = "float16 and bfloat16 under autocast" if device == "cuda" else "float32"
    lines = [
        "# What the loss costs",
        "",
        f"`python benchmarks/loss.py`: forward and backward on (2, K, {size}, {size}, {size}), "
        f"{kinds}; Dice + CE + MEEP-KL in closed form (ours) and composed (nnU-Net's loss, and the "
        "term computed separately), against nnU-Net's Dice + CE without a term. Memory is the peak "
        "in addition to logits and target, including the gradient.",
        "",
    ]
    for section in sections:
        lines += section()
        text = "\n".join([*lines, where(device), ""])
        if options.o:  # after each section, for a machine that is lent for minutes
            options.o.write_text(text)
    print(text)


def where(device: str) -> str:
    """The machine and the versions."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        models = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
        n_busy = os.getloadavg()[0]
        name = (
            f"{models[0].split(':')[1].strip()}, {torch.get_num_threads()} threads, "
            f"load average {n_busy:.1f} at the end"
        )
    return (
        f"{name}, Python {platform.python_version()}, torch {torch.__version__}, nnunetv2 "
        f"{importlib.metadata.version('nnunetv2')}."
    )


if __name__ == "__main__":
    main()
