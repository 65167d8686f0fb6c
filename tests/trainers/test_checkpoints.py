"""Checkpoints and the progress picture are whole at any time; a torn checkpoint is one line."""

from __future__ import annotations

import os
from pathlib import Path

import crash
import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from PIL import Image

from nnunet_meep import trainers
from nnunet_meep.errors import InputError
from nnunet_meep.trainers.checkpoints import go_on_from
from nnunet_meep.trainers.mixin import MEEPMixin
from nnunet_meep.trainers.progress import CalibrationLogger

NAME = "nnUNetTrainerMEEP_KL_5epochs"


@pytest.fixture
def trainer(build, tmp_path):
    """A trainer with a best and a latest checkpoint, of the first and the second epoch."""
    data = tmp_path / "preprocessed" / "Dataset999_Tiny" / "nnUNetPlans_3d"
    data.mkdir(parents=True)
    (data / "case_1.b2nd").touch()  # nnU-Net reads the format of the data off the names
    trainer = build(getattr(trainers, NAME))
    trainer.initialize()
    for epoch, name in enumerate(("best", "latest")):
        trainer.current_epoch = epoch
        save(trainer, name)
    return trainer


def path_of(trainer, name) -> Path:
    return Path(trainer.output_folder) / f"checkpoint_{name}.pth"


def save(trainer, name) -> None:
    trainer.save_checkpoint(str(path_of(trainer, name)))


def change(trainer) -> None:
    with torch.no_grad():
        for parameter in trainer.network.parameters():
            parameter += 1
    trainer.current_epoch += 1


def test_a_checkpoint_is_whole_whenever_the_training_is_killed(trainer) -> None:
    folder = Path(trainer.output_folder)
    before = crash.read_state(folder)
    change(trainer)
    states = crash.killed(folder, lambda: save(trainer, "latest") or 0)
    after = crash.recover(folder)
    assert not crash.same(before, after)
    assert len(states) > 4
    for state in states:
        crash.write_state(folder, state)
        crash.assert_whole(crash.recover(folder), before, after)
    crash.write_state(folder, states[-1])
    save(trainer, "latest")
    assert crash.same(crash.read_state(folder), after)


def test_a_full_disk_keeps_the_checkpoint_before_and_is_one_line(trainer) -> None:
    """Whose network the training goes on from is said."""
    folder = Path(trainer.output_folder)
    before = crash.read_state(folder)
    change(trainer)

    def saved() -> int:
        save(trainer, "latest")
        return 0

    size = path_of(trainer, "latest").stat().st_size
    for n_bytes in (100, size // 2, size - 1):
        with pytest.raises(InputError) as raised:
            crash.limited(saved, n_bytes)
        assert str(raised.value).startswith(f"{path_of(trainer, 'latest')}: could not be saved;")
        assert str(raised.value).endswith("--c goes on from checkpoint_latest.pth, epoch 2")
        assert "\n" not in str(raised.value)
        assert crash.read_state(folder) == before
    for n in (0, 1, 3):  # the temporary folder, fsync, the rename
        with pytest.raises(OSError, match=str(folder)):
            crash.failing(folder, saved, n)
        assert crash.recover(folder) == before


def test_what_another_rank_saves_and_what_a_trainer_saves_beside_it(trainer, monkeypatch) -> None:
    own = nnUNetTrainer.save_checkpoint

    def with_average(self, filename: str) -> None:
        own(self, filename)
        if self.local_rank == 0:
            Path(filename).with_suffix(".ema").write_text("average")

    monkeypatch.setattr(nnUNetTrainer, "save_checkpoint", with_average)
    trainer.local_rank = 1
    save(trainer, "final")
    assert not path_of(trainer, "final").exists()
    trainer.local_rank = 0
    save(trainer, "final")
    assert path_of(trainer, "final").with_suffix(".ema").read_text() == "average"
    assert path_of(trainer, "final").exists()
    trainer.disable_checkpointing = True
    save(trainer, "other")
    assert not path_of(trainer, "other").exists()


@pytest.mark.parametrize("n_bytes", [0, 1000, -1])
def test_a_torn_checkpoint_is_one_line_that_names_the_one_before(trainer, build, n_bytes) -> None:
    """As nnU-Net leaves it that is killed while it saves one."""
    latest, best = path_of(trainer, "latest"), path_of(trainer, "best")
    latest.write_bytes(latest.read_bytes()[:n_bytes])
    message = f"Error: {latest}: expected a checkpoint, found one that is cut short"
    resumed = build(type(trainer))
    with pytest.raises(SystemExit, match=message) as raised:
        maybe_load_checkpoint(resumed, continue_training=True, validation_only=False)
    assert str(raised.value).endswith("--c goes on from checkpoint_best.pth, epoch 1")
    with pytest.raises(InputError, match="cut short"):
        MEEPMixin.load_checkpoint(resumed, str(latest))
    latest.unlink()
    maybe_load_checkpoint(resumed, continue_training=True, validation_only=False)
    assert resumed.current_epoch == 1
    best.write_bytes(best.read_bytes()[:n_bytes])
    with pytest.raises(SystemExit, match="no whole checkpoint, so begin the training anew"):
        resumed.load_checkpoint(str(best))


@pytest.mark.parametrize("parameter", ["filename_or_checkpoint", "checkpoint"])
def test_a_checkpoint_is_taken_by_each_name_that_versions_of_nnunet_give_it(
    trainer, build, monkeypatch, parameter
) -> None:
    own = nnUNetTrainer.load_checkpoint

    def load(self, of_any_name: str) -> None:
        own(self, of_any_name)

    monkeypatch.setattr(nnUNetTrainer, "load_checkpoint", load)
    resumed = build(type(trainer))
    resumed.load_checkpoint(**{parameter: str(path_of(trainer, "latest"))})
    assert resumed.current_epoch == 2


def test_the_one_before_may_hold_objects_of_a_users_own_trainer(tmp_path) -> None:
    torch.save({"mine": tmp_path}, tmp_path / "checkpoint_best.pth")
    assert go_on_from(tmp_path) == "--c goes on from checkpoint_best.pth"


def test_what_is_wrong_with_a_whole_checkpoint_is_nnunets_to_say(trainer, tmp_path) -> None:
    torch.save({"network_weights": {}}, tmp_path / "other.pth")
    with pytest.raises(KeyError, match="init_args"):
        trainer.load_checkpoint(str(tmp_path / "other.pth"))
    with pytest.raises(SystemExit, match=r"missing\.pth: No such file"):
        trainer.load_checkpoint(str(tmp_path / "missing.pth"))


def test_the_progress_picture_is_whole_whenever_the_training_is_killed(
    tmp_path, monkeypatch
) -> None:
    def nnunets(logger, folder: str) -> None:
        Image.new("RGB", (9, 27), "blue").save(os.path.join(folder, "progress.png"))

    monkeypatch.setattr(LocalLogger, "plot_progress_png", nnunets)
    monkeypatch.setattr(CalibrationLogger, "_panel", lambda _: np.zeros((9, 9, 4), np.uint8))
    folder = tmp_path / "fold_0"
    folder.mkdir()
    (folder / "progress.png").write_bytes(b"of the epoch before")
    before = crash.read_state(folder)
    states = crash.killed(folder, lambda: CalibrationLogger().plot_progress_png(str(folder)) or 0)
    after = crash.recover(folder)
    with Image.open(folder / "progress.png") as image:
        assert image.size == (9, 36)
    for state in states:
        crash.write_state(folder, state)
        crash.assert_whole(crash.recover(folder), before, after)
