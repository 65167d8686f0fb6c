"""The places on a machine where steps run side by side: CPU threads, or shares of GPUs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from nnunet_meep.cores import usable_cores
from nnunet_meep.errors import InputError

#: Keep glibc from returning the memory of each activation to the system, which makes an iteration
#: on a CPU take a fifth less time.
_MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_ARENA_MAX": "1",
}


@dataclass(frozen=True)
class Slot:
    """Where a step can run.

    Attributes:
        for_device: for steps that train or predict; else for all others, or both on a CPU.
        gpu: which one the step sees; None: as the environment says.
    """

    for_device: bool
    for_others: bool
    gpu: str | None = None


@dataclass(frozen=True)
class Machine:
    """What a runner may use.

    Attributes:
        device: ``cpu``, ``cuda`` or ``mps``, as for nnU-Net's ``-device``.
        slots: one step at a time in each.
        cores: CPU cores.
        for_trainings: environment variables, in place of the user's.
    """

    device: str
    slots: tuple[Slot, ...]
    cores: int
    for_trainings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        device: str | None,
        jobs: int | None,
        gpus: list[str],
        per_gpu: int | None,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> Machine:
        """The machine with what the user asked for.

        Args:
            device: None: ``cuda`` if there is a GPU, else ``cpu``.
            jobs: steps at a time on the CPU; None: 1, beside the GPU's.
            gpus: their numbers, as PyTorch counts those that it sees (``CUDA_VISIBLE_DEVICES``), or
                names such as ``GPU-8f2c``; empty: the first one.
            per_gpu: trainings at a time on each; None: 1.
            environment: variables for trainings, in place of the user's.

        Raises:
            InputError: GPUs are given for another device, twice, or are not there.
        """
        device = device or ("cuda" if gpus else _default_device())
        cores = usable_cores()
        if gpus and device != "cuda":
            raise InputError(f"--gpus: expected -device cuda with it, got -device {device}")
        if per_gpu and device == "cpu":
            raise InputError(
                "--per-gpu: expected a GPU, but it runs on the CPU, where --jobs says how many "
                "trainings run at a time"
            )
        if device == "cpu":
            slots = [Slot(True, True)] * (jobs or 1)
        else:
            visible: list[str | None] = [*_names(gpus)] or [None]
            slots = [Slot(True, False, gpu) for _ in range(per_gpu or 1) for gpu in visible]
            slots += [Slot(False, True)] * (jobs or 1)
        return cls(device, tuple(slots), cores or 1, dict(environment or {}))

    @property
    def threads(self) -> int:
        """CPU threads for each slot."""
        return max(1, self.cores // len(self.slots))

    def environment(
        self, slot: Slot, folders: Mapping[str, str], *, trains: bool
    ) -> dict[str, str]:
        """The environment of a step; what the user has set stays, but for nnU-Net's folders.

        Args:
            slot: where it runs.
            folders: nnU-Net's environment variables for its folders.
            trains: whether it is a training.
        """
        share = str(self.threads)
        defaults = {"OMP_NUM_THREADS": share, "nnUNet_def_n_proc": share}
        # Beside torch's thread on a CPU, a worker that augments is enough for small networks.
        defaults["nnUNet_n_proc_DA"] = "1" if self.device == "cpu" else str(min(self.threads, 12))
        if self.device == "cpu":
            defaults.update(_MALLOC)
        forced = {"PYTHONUNBUFFERED": "1", **folders}  # epochs appear in the log as they begin
        if slot.gpu is not None:
            forced["CUDA_VISIBLE_DEVICES"] = slot.gpu
        if trains:
            forced.update(self.for_trainings)
        return {**defaults, **os.environ, **forced}


def _names(gpus: list[str]) -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` calls these GPUs, so that a step sees one of them alone.

    Their numbers count the ones that this process sees: where a cluster or the user hides some, 0
    is the first of the others.
    """
    if twice := [gpu for i, gpu in enumerate(gpus) if gpu in gpus[:i]]:
        raise InputError(
            f"--gpus: expected different GPUs, got {twice[0]} twice; --per-gpu lets several "
            f"trainings share one"
        )
    if all(gpu.startswith(("GPU-", "MIG-")) for gpu in gpus):
        return gpus
    import torch

    n, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [*map(str, range(n))] if visible is None else visible.split(",")[:n]
    for gpu in gpus:
        if not (gpu.isdecimal() and int(gpu) < n):
            hidden = "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible}"
            there = f"0 to {n - 1}" if n else "no GPU"
            raise InputError(
                f"--gpus: expected numbers of GPUs that PyTorch sees, got {gpu!r}; it sees "
                f"{there}{hidden}"
            )
    return [names[int(gpu)].strip() for gpu in gpus]


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
