"""A whole training in two processes, as ``nnUNetv2_train -num_gpus 2`` runs it, on the CPU.

Under DDP nnU-Net's trainer puts itself on a GPU: what it says about devices is changed here, and
nothing else of it.
"""

from __future__ import annotations

import copy
import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunets_module
from small_project import Project, load, weights

from nnunet_meep.trainers import controller
from nnunet_meep.trainers.control import ErrorSums
from nnunet_meep.trainers.progress import KEYS, CalibrationLogger

pytestmark = pytest.mark.slow

NAME = "nnUNetTrainerMEEP_KL_2epochs_2iters_seed1"
NAME_AUTO = "nnUNetTrainerMEEP_KL_lambdaauto_2epochs_2iters_seed1"
NAME_RIVAL = "nnUNetTrainerDSCppNACL_2epochs_2iters_seed1"
FIXED = {NAME: 0.3, NAME_RIVAL: 0.1}
RESUMED = ("labels+ignore", NAME_AUTO)
CASES = [("labels+ignore", NAME), RESUMED, ("regions", NAME_AUTO), ("labels+ignore", NAME_RIVAL)]
#: Batches of three: two patches for the first rank and one, on foreground, for the second.
BATCH = 3


def lambda_from_errors(_: list[float], epochs: list[ErrorSums], *__: int, start: float) -> float:
    """In two epochs the control itself takes no step."""
    return start * sum(sums.errors / sums.voxels for sums in epochs)


class Job(NamedTuple):
    """A training of both ranks, in a folder with the prepared data."""

    folder: Path
    dataset: str
    plans: dict
    kind: str
    name: str


def run_rank(rank: int, root: Path, jobs: list[Job]) -> None:
    """One of the two processes: all trainings, in the same order on both."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=(root / "meeting_point").as_uri(),
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=180),  # a rank that stays away is an error, not a hang
    )
    for job in jobs:
        train(rank, job)
    dist.destroy_process_group()


def train(rank: int, job: Job) -> None:
    """Leaves the rank's weights and its log."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CalibrationLogger, "plot_progress_png", lambda *_: None)
        patch.setattr(nnunets_module, "GradScaler", lambda _: None)
        ddp = nnunets_module.DDP
        patch.setattr(nnunets_module, "DDP", lambda network, device_ids: ddp(network))
        patch.setattr(nnunets_module, "device_count", lambda: 2)
        patch.setattr(controller, "begins", lambda *_: True)
        patch.setattr(controller, "next_lambda", lambda_from_errors)
        project = Project(job.folder, job.dataset, job.plans, patch)
        trainer = on_cpu(project.trainer(job.name))
        trainer.run_training()
        left = {
            "start": trainer.is_ddp and trainer.batch_size,
            "weights": weights(trainer),
            "log": trainer.logger.get_checkpoint(),
            "unforced": trainer.listener.unforced,
        }
        if rank == 0:
            left["checkpoint"] = load(trainer, "checkpoint_final.pth")
        if (job.kind, job.name) == RESUMED:
            resumed = stopped_and_resumed(project, job.name)
            left["resumed weights"] = weights(resumed)
            left["resumed log"] = resumed.logger.get_checkpoint()
        torch.save(left, job.folder / f"rank{rank}.pt")


class Interruption(Exception):
    pass


def stop():
    raise Interruption


def stopped_and_resumed(project: Project, name: str):
    """``project.trainer(name)`` trained for one epoch, and by another with ``--c`` to the end."""
    interrupted = on_cpu(project.trainer(name, results="resumed"))
    begin = interrupted.on_epoch_start
    interrupted.on_epoch_start = lambda: begin() if not interrupted.current_epoch else stop()
    with pytest.raises(Interruption):
        interrupted.run_training()
    dist.barrier()  # the first rank has written the checkpoint
    resumed = on_cpu(project.trainer(name, results="resumed", resume=True))
    resumed.load_checkpoint(str(Path(interrupted.output_folder) / "checkpoint_latest.pth"))
    assert resumed.current_epoch == 1
    resumed.run_training()
    return resumed


def on_cpu(trainer):
    trainer.device = torch.device("cpu")
    return trainer


@pytest.fixture(scope="module")
def of_ranks(prepared_balls, tmp_path_factory):
    """``{(kind, name): what both ranks left}``. A process takes longer to start than to train."""
    root = tmp_path_factory.mktemp("ddp")
    jobs = []
    for kind, name in CASES:
        prepared, dataset, plans = prepared_balls(kind)
        plans = copy.deepcopy(plans)
        plans["configurations"]["3d_fullres"]["batch_size"] = BATCH
        jobs.append(Job(root / f"{kind}_{name}", dataset, plans, kind, name))
        jobs[-1].folder.mkdir()
        for part in ("raw", "preprocessed"):
            (jobs[-1].folder / part).symlink_to(prepared / part)
    mp.spawn(run_rank, args=(root, jobs), nprocs=2)
    return {
        (job.kind, job.name): [
            torch.load(job.folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)
        ]
        for job in jobs
    }


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_two_ranks_train_one_network_and_log_the_same(of_ranks, kind, name):
    ranks = of_ranks[kind, name]
    assert [rank["start"] for rank in ranks] == [2, 1]
    assert [rank["unforced"] for rank in ranks] == [[0, 1], []]
    for key, value in ranks[0]["weights"].items():
        assert torch.equal(value, ranks[1]["weights"][key]), key
    for key in KEYS:
        values = [np.asarray(rank["log"][key]) for rank in ranks]
        assert np.isfinite(values[0]).all(), key
        np.testing.assert_array_equal(*values, err_msg=key)
    log = ranks[0]["log"]
    # The second rank sees no validation patch of its own: its lambda comes from the first's.
    first, second = log["lambda"]
    assert first == second == FIXED[name] if name in FIXED else first == 0 < second
    whole = np.add(log["segmentation_loss"], np.multiply(log["lambda"], log["term_value"]))
    np.testing.assert_allclose(whole, log["train_losses"], rtol=1e-5)
    if (kind, name) == RESUMED:
        for rank in ranks:
            for key, value in rank["weights"].items():
                assert torch.equal(value, rank["resumed weights"][key]), key
            for key in KEYS:
                np.testing.assert_array_equal(rank["log"][key], rank["resumed log"][key], key)
    for key, value in ranks[0]["checkpoint"]["network_weights"].items():
        assert torch.equal(value, ranks[0]["weights"][f"module.{key}"]), key
