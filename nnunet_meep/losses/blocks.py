"""A batch, processed in blocks of voxels small enough to stay in the CPU cache.

On a CPU each thread takes the next block as soon as it has finished one, and the threads wait for
each other once, at the end. Torch by itself shares out every single operation, and its threads then
wait for each other after each: if another process takes the core of one of them, all wait for it,
dozens of times a block.
"""

from __future__ import annotations

import functools
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor

#: Logits per block on a CPU, at most: few enough for the cache, and so many that the threads, of
#: which only one at a time can start an operation, seldom meet.
BLOCK = 1 << 19
#: Logits per block on a GPU without Triton: more, because starting an operation costs time there.
BLOCK_GPU = 1 << 25


class Problem(ABC):
    """A batch and what to sum; see :func:`nnunet_meep.losses.sums.voxel_sums`.

    Attributes:
        logits: (B, K, N), N voxels; target: (B, 1, N), or with regions (B, R, N) or (B, R + 1, N).
        kind: the dtype to compute in, at least float32.
        kept: what :meth:`forward` leaves for :meth:`backward` of another object for the same batch.

    C is the number of classes or regions that have sums of their own.
    """

    def __init__(
        self,
        logits: Tensor,
        target: Tensor,
        term: str | None,
        ignore_label: int | None,
        regions: bool,
    ) -> None:
        self.shape = logits.shape
        self.logits = logits.detach().flatten(2)
        self.target = target.detach().flatten(2)
        self.term, self.ignore_label, self.regions = term, ignore_label, regions
        self.kind = torch.promote_types(logits.dtype, torch.float32)
        self.kept: list[Tensor] = []

    def forward(self) -> Tensor:
        """The sums of each sample, (B, 3 C + 4), float64.

        A row has ``intersection``, ``predicted`` and ``labelled`` of each class or region, then
        ``cross_entropy``, ``term``, ``n_valid`` and ``n_term``.
        """
        rows = torch.stack(self._for_blocks(self._sums_of))
        return torch.unflatten(rows.double(), 0, (len(self.logits), -1)).sum(1)

    def backward(self, of_channels: Tensor, of_all: Tensor) -> Tensor:
        """The gradient with respect to the logits, in their shape and dtype.

        Args:
            of_channels: gradient of ``intersection`` and ``predicted``, (B, 2, C).
            of_all: gradient of ``cross_entropy`` and ``term``, (2,).
        """
        gradient = torch.empty_like(self.logits)
        of_channels = of_channels[..., None].to(self.kind)
        e, t = of_all.tolist()

        def write(sample: int, voxels: slice) -> None:
            a, b = of_channels[sample]
            self._write_gradient(gradient[sample, :, voxels], sample, voxels, a, b, e, t)

        self._for_blocks(write)
        return gradient.view(self.shape)

    @abstractmethod
    def _sums_of(self, sample: int, voxels: slice) -> Tensor:
        """A row of :meth:`forward` for one block, (3 C + 4,)."""

    @abstractmethod
    def _write_gradient(
        self, out: Tensor, sample: int, voxels: slice, a: Tensor, b: Tensor, e: float, t: float
    ) -> None:
        """Write the gradient of one block into ``out``, (K, n); a and b are (C, 1)."""

    def _blocks(self) -> list[tuple[int, slice]]:
        """The sample index and the range of voxels of each block."""
        n_samples, n_channels, n_voxels = self.logits.shape
        block = BLOCK if self.logits.device.type == "cpu" else BLOCK_GPU
        # Of equal length, so that no thread waits for a last long one.
        n_blocks = max(-(-n_voxels * n_channels // block), 1)
        step = max(-(-n_voxels // n_blocks), 1)
        return [
            (sample, slice(start, min(start + step, n_voxels)))
            for sample in range(n_samples)
            for start in range(0, max(n_voxels, 1), step)
        ]

    def _for_blocks(self, function: Callable[..., Any]) -> list[Any]:
        """What ``function`` returns for each block, in the order of the blocks."""
        blocks = self._blocks()
        results: list[Any] = [None] * len(blocks)
        todo = iter(range(len(blocks)))  # the threads share it; taking the next is atomic

        def work() -> None:
            with torch.no_grad():
                for i in todo:
                    results[i] = function(*blocks[i])

        n_threads = torch.get_num_threads() if self.logits.device.type == "cpu" else 1
        if n_threads == 1:
            work()
            return results
        pool = _threads(n_threads)
        for future in [pool.submit(work) for _ in range(min(n_threads, len(blocks)))]:
            future.result()
        return results


def compare(comparison: Callable[..., Tensor], values: Tensor, other: Any, like: Tensor) -> Tensor:
    """The result of ``comparison`` as 0 and 1 in the dtype of ``like``, without a second pass.

    On a CPU torch is several times faster with numbers than with booleans.
    """
    return comparison(values, other, out=torch.empty_like(values, dtype=like.dtype))


@functools.cache
def _threads(n: int) -> ThreadPoolExecutor:
    """``n`` threads in which torch's operations do not start threads of their own."""
    pool = ThreadPoolExecutor(n, thread_name_prefix="nnunet_meep_losses")
    all_started = threading.Barrier(n)  # so that each of them takes one task

    def start() -> None:
        torch.get_num_threads()  # a thread takes over the setting of the process on first use
        torch.set_num_threads(1)
        all_started.wait()

    wait([pool.submit(start) for _ in range(n)])
    torch.set_num_threads(n)  # for threads that start later: the setting was also the process's
    return pool


if hasattr(os, "register_at_fork"):  # a forked process has none of the threads
    os.register_at_fork(after_in_child=_threads.cache_clear)
