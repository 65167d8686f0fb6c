"""What does a loss cost? Forward and backward of ours beside nnU-Net's own Dice + CE.

    python benchmarks/loss.py -o benchmarks/loss.md

On logits of (2, K, 96, 96, 96) on a CPU, (2, K, 128, 128, 128) on a GPU, float32 on the one and
float16 under autocast on the other, where nnU-Net compiles its Dice: what each loss takes in time
(median of interleaved runs) and in memory beside logits and target (peak, each in a process of its
own). "composed" is nnU-Net's loss and the term computed beside it, which is what the closed form
replaces.

A second table counts bytes per logit: what each has to move to and from memory, and what it keeps
for the backward pass beside logits and target. Of nnU-Net's code and of the composition these are
the tensors that torch's operations read and write (a compiler may save some of that); ours reads
logits and target twice, writes the gradient once, and what it keeps it writes and reads.

At the end whole training steps of nnU-Net's trainer and of ``nnUNetTrainerMEEP_KL`` in turn: on a
GPU with nnU-Net's default network and a patch of 128 x 128 x 128, on a CPU with a small one.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from tqdm import tqdm

from nnunet_meep.losses import RegularizedLoss
from nnunet_meep.trainers import parse
from nnunet_meep.trainers.loss_choice import choose_loss

CLASSES = (2, 4, 16, 105)
LOSSES = ("nnU-Net", "composed", "ours")
VERSIONS = ("nnU-Net", "composed", "ours, torch")


def make_loss(name: str, n_classes: int, device: str, compiled: bool = True) -> torch.nn.Module:
    """nnU-Net's Dice + CE with its trainer's settings, without or with MEEP-KL."""
    dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    own = DC_and_CE_loss(dice, {}, 1, 1, None, MemoryEfficientSoftDiceLoss)
    if device == "cuda" and compiled:
        own.dc = torch.compile(own.dc)
    if name == "nnU-Net":
        return own
    if name == "composed":
        return RegularizedLoss(own, "MEEP_KL", 0.3)
    return choose_loss(
        own,
        parse("nnUNetTrainerMEEP_KL_lambda0p3"),
        ignore_label=None,
        regions=False,
        n_channels=n_classes,
        device=torch.device(device),
    )


def make_batch(n_classes: int, device: str) -> tuple[Tensor, Tensor]:
    """Logits that are right for nine voxels out of ten, and a target of blocks of voxels."""
    size = 128 if device == "cuda" else 96
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, n_classes, (2, 1, *(size // 8,) * 3), generator=generator)
    target = coarse
    for axis in (2, 3, 4):
        target = target.repeat_interleave(8, axis)
    logits = torch.randn(2, n_classes, size, size, size, generator=generator)
    logits.scatter_add_(1, target, torch.full(target.shape, 4.5))
    kind = torch.float16 if device == "cuda" else torch.float32
    return logits.to(device, kind), target.to(device, torch.int16)


def once(loss: torch.nn.Module, logits: Tensor, target: Tensor) -> None:
    """Run forward and backward once."""
    with torch.autocast(logits.device.type, enabled=logits.is_cuda):
        value = loss(logits, target)
    value.backward()
    logits.grad = None


def seconds_of(losses: dict[str, torch.nn.Module], batch: tuple[Tensor, Tensor], n: int) -> dict:
    """Median seconds of each loss; the losses run in turn."""
    times: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(n + 1):  # the first one warms up
        for name, loss in losses.items():
            synchronize(batch[0])
            start = time.perf_counter()
            once(loss, *batch)
            synchronize(batch[0])
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def synchronize(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def peak_bytes(name: str, n_classes: int, device: str) -> float:
    """Peak memory beyond what was used before, in bytes; to be called in a fresh process."""
    logits, target = make_batch(n_classes, device)
    loss = make_loss(name, n_classes, device)
    small = logits[:, :, :8, :8, :8].clone().requires_grad_()
    once(loss, small, target[:, :, :8, :8, :8])  # warm-up: loads libraries, compiles
    logits.requires_grad_()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        once(loss, logits, target)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak so far
    before = _status("VmRSS")
    once(loss, logits, target)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(x for x in lines if x.startswith(name)).split()[1])


def in_fresh_process(name: str, n_classes: int, device: str) -> float:
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import loss; "
        "print(json.dumps(loss.peak_bytes(sys.argv[2], int(sys.argv[3]), sys.argv[4])))"
    )
    here = str(Path(__file__).resolve().parent)
    command = [sys.executable, "-c", code, here, name, str(n_classes), device]
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


def bytes_per_logit(name: str, n_classes: int, device: str) -> tuple[float, float]:
    """Bytes moved, and bytes kept for the backward pass, per logit."""
    logits, target = make_batch(n_classes, device)
    logits, target = (x[..., :32, :32, :32].contiguous() for x in (logits, target))
    logits.requires_grad_()
    if name == "ours, torch":
        loss = make_loss("ours", n_classes, "cpu")
    else:
        loss = make_loss(name, n_classes, device, compiled=False)
    given = {x.untyped_storage().data_ptr() for x in (logits, target)}
    kept: dict[int, Tensor] = {}  # keeps the tensors alive, so that no address is used twice

    def pack(x: Tensor) -> Tensor:
        kept.setdefault(x.untyped_storage().data_ptr(), x)
        return x

    with (
        Traffic() as traffic,
        torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x),
    ):
        once(loss, logits, target)
    n_kept = sum(x.untyped_storage().nbytes() for ptr, x in kept.items() if ptr not in given)
    n_moved = traffic.n_bytes
    if name == "ours, torch":
        n_moved = 3 * logits.nbytes + 2 * target.nbytes + 2 * n_kept
    return n_moved / logits.numel(), n_kept / logits.numel()


def step_seconds(device: str, n_rounds: int) -> dict[str, float]:
    """Median seconds of a training step of each trainer; three classes, random images."""
    size, features = (128, [32, 64, 128, 256, 320, 320]) if device == "cuda" else (48, [8, 16, 32])
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "one": 1, "two": 2},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    logits, target = make_batch(3, device)
    del logits
    target = target[..., :size, :size, :size]
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(nnUNet_results=folder, nnUNet_preprocessed=folder)
        data = Path(folder, "Dataset999_Step", "nnUNetPlans_3d_fullres")
        data.mkdir(parents=True)
        (data / "case.b2nd").touch()  # nnU-Net infers the data format from the files
        # Not imported earlier, because nnU-Net reads these environment variables on import.
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        from nnunet_meep import trainers

        steps = {}
        for trainer_class in (nnUNetTrainer, trainers.nnUNetTrainerMEEP_KL):
            plans = step_plans(size, features)
            trainer = trainer_class(plans, "3d_fullres", 0, dataset, torch.device(device))
            trainer.initialize()
            trainer.network.train()
            if isinstance(trainer, trainers.MEEPMixin):
                trainer.monitor.start_training()
            n_scales = len(features) - 1  # nnU-Net has no output at the coarsest resolution
            steps[trainer_class.__name__] = trainer
        image = torch.randn(2, 1, size, size, size)
        targets = [target[..., :: 2**i, :: 2**i, :: 2**i].cpu() for i in range(n_scales)]
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in tqdm(range(n_rounds + 2), unit="training step", leave=False):
            for name, trainer in steps.items():
                synchronize(target)
                start = time.perf_counter()
                trainer.train_step({"data": image, "target": targets})
                synchronize(target)
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[2:]) for name, values in times.items()}


def step_plans(size: int, features: list[int]) -> dict[str, Any]:
    """nnU-Net's plans for isotropic images."""
    n = len(features)
    network = {
        "n_stages": n,
        "features_per_stage": features,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * n,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (n - 1),
        "n_conv_per_stage": [2] * n,
        "n_conv_per_stage_decoder": [2] * (n - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [size] * 3,
        "spacing": [1.0] * 3,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": False,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    return {
        "dataset_name": "Dataset999_Step",
        "plans_name": "nnUNetPlans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "configurations": {"3d_fullres": configuration},
        "continue_training": False,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", type=Path, help="Markdown file to write the table into as well")
    parser.add_argument("--rounds", type=int, default=15, help="of each (default: 15)")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for n_classes in tqdm(CLASSES, unit="number of classes"):
        memory = {name: in_fresh_process(name, n_classes, device) for name in LOSSES}
        batch = make_batch(n_classes, device)
        batch[0].requires_grad_()
        losses = {name: make_loss(name, n_classes, device) for name in LOSSES}
        seconds = seconds_of(losses, batch, options.rounds)
        n_bytes = {name: bytes_per_logit(name, n_classes, device) for name in VERSIONS}
        size_of_logit, size_of_label = batch[0].element_size(), batch[1].element_size()
        # Nothing is kept; a test of the kernels checks that.
        n_bytes["ours, Triton"] = (3 * size_of_logit + 2 * size_of_label / n_classes, 0.0)
        rows.append((n_classes, n_bytes, seconds, memory))
    text = report(rows, step_seconds(device, 2 * options.rounds), device)
    print(text)
    if options.o:
        options.o.write_text(text)


def report(rows: list[tuple[int, dict, dict, dict]], steps: dict[str, float], device: str) -> str:
    """The report in Markdown."""
    shape = "(2, K, 128, 128, 128), float16" if device == "cuda" else "(2, K, 96, 96, 96), float32"
    lines = [
        "# What the loss costs",
        "",
        f"`python benchmarks/loss.py`: forward and backward on {shape}; Dice + CE + MEEP-KL in "
        "closed form (ours) and composed, against nnU-Net's Dice + CE without a term. Memory is "
        "the peak beside logits and target, the gradient included.",
        "",
        "| K | nnU-Net, ms | composed | ours | ours / nnU-Net | nnU-Net, MB | composed | ours "
        "| ours / nnU-Net |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    digits = 1 if device == "cuda" else 0
    for n_classes, _, seconds, memory in rows:
        times = [f"{1e3 * seconds[name]:.{digits}f}" for name in LOSSES]
        sizes = [f"{memory[name] / 1e6:.0f}" for name in LOSSES]
        ratios = [f"{x['ours'] / x['nnU-Net']:.2f}" for x in (seconds, memory)]
        lines.append(f"| {' | '.join([str(n_classes), *times, ratios[0], *sizes, ratios[1]])} |")
    lines += [
        "",
        "Bytes per logit that each has to move, and keeps for the backward pass beside logits and "
        "target. Of nnU-Net's code and the composition: what torch's operations read and write (a "
        "compiler may save some of that). Ours: logits and target are read twice, the gradient is "
        "written once, and what is kept is written and read.",
        "",
        "| K | nnU-Net moves | composed | ours, torch | ours, Triton | nnU-Net keeps | composed "
        "| ours, torch | ours, Triton |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for n_classes, n_bytes, _, _ in rows:
        cells = [f"{n_bytes[name][i]:.1f}" for i in (0, 1) for name in n_bytes]
        lines.append(f"| {' | '.join([str(n_classes), *cells])} |")
    own, meep = steps.values()
    lines += [
        "",
        f"A training step (K = 3, batch 2): {1e3 * own:.{digits}f} ms with `nnUNetTrainer`, "
        f"{1e3 * meep:.{digits}f} ms with `nnUNetTrainerMEEP_KL`, {meep / own:.3f} times as long "
        "(medians).",
    ]
    where = torch.cuda.get_device_name() if device == "cuda" else _processor()
    lines += [
        "",
        f"{where}, Python {platform.python_version()}, torch {torch.__version__}, nnunetv2 "
        f"{importlib.metadata.version('nnunetv2')}.",
        "",
    ]
    return "\n".join(lines)


def _processor() -> str:
    names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
    return f"{names[0].split(':')[1].strip()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
