"""A training goes on from its own checkpoints alone."""

from __future__ import annotations

import pytest
import torch

from nnunet_meep.errors import InputError
from nnunet_meep.trainers import MEEPMixin, parse, trainer_class
from nnunet_meep.trainers.resumed import is_same_trainer, refuse_other_trainer

SAME = [
    ("nnUNetTrainerMEEP_KL", "nnUNetTrainerMEEP_KL"),
    ("nnUNetTrainerMEEP_KL", "nnUNetTrainerMEEP_KL_1000epochs_250iters"),
    ("nnUNetTrainerFocal", "nnUNetTrainerFocal_gamma2"),
    ("nnUNetTrainerDA5_MEEP", "nnUNetTrainerDA5_MEEP"),
]
OTHER = [
    ("nnUNetTrainerMEEP_KL_lambda0p3", "nnUNetTrainerDiceMEEP_H_lambdaauto"),
    ("nnUNetTrainerMEEP_KL", "nnUNetTrainerMEEP_H"),
    ("nnUNetTrainerMEEP_KL_50epochs", "nnUNetTrainerMEEP_KL_100epochs"),
    ("nnUNetTrainerMEEP_KL_seed1", "nnUNetTrainerMEEP_KL"),
    ("nnUNetTrainer", "nnUNetTrainerMEEP_KL"),
    ("nnUNetTrainer", "nnUNetTrainerDiceCE"),
    ("nnUNetTrainerDA5_MEEP", "nnUNetTrainerDA6_MEEP"),
]


@pytest.mark.parametrize(("one", "other", "same"), [(*p, p in SAME) for p in SAME + OTHER])
def test_names_of_the_same_trainer(one, other, same) -> None:
    assert is_same_trainer(one, other) is is_same_trainer(other, one) is same


def checkpoint(path, trainer_name, **more):
    content = {"network_weights": {}, "logging": {}, "init_args": {}, "trainer_name": trainer_name}
    torch.save({**content, **more}, path)
    return path


def test_one_of_another_trainer_is_one_line_before_anything_is_built(build, tmp_path) -> None:
    path = checkpoint(tmp_path / "checkpoint_latest.pth", "nnUNetTrainerMEEP_KL_lambda0p3")
    trainer = build(trainer_class("nnUNetTrainerDiceMEEP_H_lambdaauto"))
    with pytest.raises(SystemExit) as ended:
        trainer.load_checkpoint(str(path))
    line = str(ended.value)
    assert line.startswith(
        f"Error: {path}: expected a checkpoint of nnUNetTrainerDiceMEEP_H_lambdaauto, "
        "got one of nnUNetTrainerMEEP_KL_lambda0p3; "
    )
    assert "\n" not in line
    assert not trainer.was_initialized


def test_a_users_own_trainer_refuses_it_too(build, tmp_path) -> None:
    class nnUNetTrainerMine(MEEPMixin):
        experiment = parse("nnUNetTrainerMEEP_KL")

    path = checkpoint(tmp_path / "checkpoint_latest.pth", "nnUNetTrainerMEEP_KL")
    with pytest.raises(InputError, match="expected a checkpoint of nnUNetTrainerMine, got one of"):
        build(nnUNetTrainerMine).load_checkpoint(str(path))


def test_one_that_is_not_safe_to_read_is_left_to_nnunet(tmp_path) -> None:
    """A trainer of the user's may keep objects of its own in a checkpoint."""
    path = checkpoint(tmp_path / "checkpoint_latest.pth", "nnUNetTrainer", mine=tmp_path)
    refuse_other_trainer(path, "nnUNetTrainerMEEP_KL")
