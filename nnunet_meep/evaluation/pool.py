"""Count the voxels of each case, in one process or several, and keep the sums for later runs."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any, TypeAlias

import numpy as np

from nnunet_meep.atomic import remove_left_over
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.case_results import CaseResult
from nnunet_meep.evaluation.counting import cache
from nnunet_meep.evaluation.counting.bins import FEW_VOXELS, CaseSums, grid
from nnunet_meep.evaluation.counting.class_counts import class_sums
from nnunet_meep.evaluation.counting.reference import PackedReference, Reference, read_reference
from nnunet_meep.evaluation.counting.roi import Roi
from nnunet_meep.evaluation.metrics.scores import (
    class_metrics,
    top_label_metrics,
)
from nnunet_meep.evaluation.roi_results import roi_result, whole_image
from nnunet_meep.garbage import collect_as_usual, collect_rarely
from nnunet_meep.nnunet_files.cases import Case, Dataset, n_voxels_of
from nnunet_meep.workers import not_for_workers


@dataclass(frozen=True)
class Finished:
    """A counted case: metrics, sums, identities of its files, and if an earlier run counted it."""

    result: CaseResult
    sums: CaseSums
    files: dict[str, str]
    was_kept: bool


#: The results of more cases than these take memory worth waiting for.
_MANY_CASES = 500

Outcomes: TypeAlias = "Generator[Finished | InputError, None, None]"


@dataclass(frozen=True)
class Job:
    """What to do with each case, and in which process.

    This process reads references, which needs SimpleITK, and adds up; the others count voxels,
    which needs Numba. Loading either one twice would exceed the memory budget of one large case.
    """

    dataset: Dataset
    n_bins: int
    rois: tuple[Roi, ...]
    surface: bool
    tolerance_mm: float
    lesions: float | None
    segmentation: str
    keep: Path | None

    def in_this_process(self, cases: list[Case]) -> Outcomes:
        """Evaluate one case after the other."""
        for case in cases:
            try:
                key = self._key(case)
                if kept := self._kept(case, key):
                    yield self.finish(case, key, kept, True)
                else:
                    yield self.finish(case, key, self.count(case, key, self._read(case)), False)
            except InputError as error:
                yield error

    def in_processes(self, cases: list[Case], n: int) -> Outcomes:
        """Evaluate several cases at once, in ``n`` other processes; in the order of the cases."""
        n = max(min(n, len(cases)), 1)
        spawn = multiprocessing.get_context("spawn")
        its_end, ours = spawn.Pipe(duplex=False)
        with not_for_workers():
            pool = ProcessPoolExecutor(n, spawn, _start_worker, (its_end,))
        waiting: deque[Future[Finished] | InputError] = deque()
        warm = is_done = False

        def start(*job: Any) -> Future[Any]:
            with not_for_workers():
                return pool.submit(*job)

        def submit(case: Case) -> Future[Finished] | InputError:
            nonlocal warm
            try:
                key = self._key(case)
                if sums := self._kept(case, key):
                    return start(self.finish, case, key, sums, True)
                if not warm and not is_small(case):
                    # Workers load Numba while this process loads SimpleITK.
                    for _ in range(n):
                        start(_warm_up)
                    warm = True
                reference = self._read(case).packed()
            except InputError as error:
                return error
            return start(self.count_and_finish, case, key, reference)

        try:
            for case in cases:
                waiting.append(submit(case))
                # Queue one case more than there are workers, so none waits for a reference.
                while len(waiting) > n:
                    yield _outcome(waiting.popleft())
            while waiting:
                yield _outcome(waiting.popleft())
            is_done = True
        except BrokenProcessPool:
            raise InputError(
                f"one of {n} processes was killed, probably for want of memory, or could not "
                f"start; try fewer (-np {max(n // 2, 1)})"
            ) from None
        finally:
            if not is_done:
                ours.close()  # the workers end at once
            # If no work is left, they exit while the results are written; but after many cases,
            # which themselves take memory then, before that.
            pool.shutdown(wait=not is_done or len(cases) > _MANY_CASES, cancel_futures=True)
            if not is_done and self.keep is not None:
                remove_left_over(self.keep)

    def _read(self, case: Case) -> Reference:
        return read_reference(case, self.dataset, self.rois)

    def _key(self, case: Case) -> dict[str, Any]:
        return cache.cache_key(
            case,
            self.dataset,
            self.n_bins,
            self.rois,
            self.surface,
            self.tolerance_mm,
            self.lesions,
            self.segmentation,
        )

    def _kept(self, case: Case, key: dict[str, Any]) -> CaseSums | None:
        return None if self.keep is None else cache.find(_kept_path(self.keep, case), key)

    def is_kept(self, case: Case) -> bool:
        """Whether the sums of a case are in ``keep``, valid for its present files; not loaded."""
        if self.keep is None or not (path := _kept_path(self.keep, case)).is_file():
            return False
        try:
            return cache.has(path, self._key(case))
        except InputError:  # it will be raised again when the case is counted
            return False

    def count(self, case: Case, key: dict[str, Any], reference: Reference) -> CaseSums:
        """The sums of a case; also written to a file if ``keep`` is a folder.

        Raises:
            InputError: a file cannot be used, or was changed in the meantime.
            OSError: the sums cannot be written.
        """
        from nnunet_meep.evaluation.counting.one_pass import sum_case  # the compiled part

        labels = self.dataset.labels
        sums = sum_case(
            case,
            labels,
            reference,
            self.n_bins,
            self.rois,
            self.surface,
            self.tolerance_mm,
            self.segmentation,
            self.lesions,
        )
        if self._key(case) != key:
            raise InputError(
                f"{case.probabilities}: {case.name} was changed while it was evaluated; "
                f"evaluate it again when nothing writes to its files"
            )
        if self.keep is not None:
            cache.save(_kept_path(self.keep, case), sums, key)
        return sums

    def finish(self, case: Case, key: dict[str, Any], sums: CaseSums, was_kept: bool) -> Finished:
        """The metrics of a case."""
        labels = self.dataset.labels
        of_image = whole_image(labels, sums)
        rois = {
            name: roi_result(labels, grid(self.n_bins), roi, of_image)
            for name, roi in sums.rois.items()
        }
        lesions = None
        if sums.lesions is not None:
            lesions = dict(zip(labels.keys, sums.lesions, strict=True))
        result = CaseResult(case.name, sums.n_clipped, sums.n_not_argmax, rois, lesions)
        return Finished(result, sums, key["files"], was_kept)

    def count_and_finish(
        self, case: Case, key: dict[str, Any], reference: PackedReference
    ) -> Finished:
        """Both, with the reference as it comes from another process."""
        finished = self.finish(case, key, self.count(case, key, reference.unpacked()), False)
        collect_as_usual()  # all is imported
        return finished


def _start_worker(other: Connection) -> None:
    """Make a worker exit when its parent says so.

    Args:
        other: a pipe whose other end the parent closes; the system does it if the parent is killed.
    """
    collect_rarely()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Windows; see not_for_workers

    def end() -> None:
        other.poll(None)
        os._exit(1)

    Thread(target=end, daemon=True).start()


def is_small(case: Case) -> bool:
    """Whether a case is known to be counted without Numba; only the header of its npz is read."""
    n_voxels = n_voxels_of(case.probabilities)
    return n_voxels is not None and n_voxels <= FEW_VOXELS


def _warm_up() -> None:
    """Load the compiled loops, and all else that a case needs, before the first case arrives."""
    from nnunet_meep.evaluation.counting import one_pass  # noqa: F401
    from nnunet_meep.evaluation.counting.loops import ClassCounter

    counter = ClassCounter(grid(1), np.array([0, 1, 2], np.uint8), score=True)
    counter.add(np.array([0.25, 0.75], np.float32), np.array([0, 1], np.uint8))
    sums = class_sums(counter.counted(), expected_overlap=0.75, tp=1, fp=0, fn=0, voxel_ml=1.0)
    class_metrics(sums, grid(1))
    top_label_metrics(sums.cells, grid(1))


def _outcome(job: Future[Finished] | InputError) -> Finished | InputError:
    if isinstance(job, InputError):
        return job
    try:
        return job.result()
    except InputError as error:
        return error


def _kept_path(keep: Path, case: Case) -> Path:
    return keep / f"{case.name}.npz"
