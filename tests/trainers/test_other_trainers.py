"""Trainers whose steps go other ways than nnU-Net's own, with the mixin in front."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from small_project import assert_trained, load

from nnunet_meep import trainers
from nnunet_meep.losses import RegularizedLoss
from nnunet_meep.trainers import MEEPMixin, parse
from nnunet_meep.trainers.mixin import MOST_OVERFLOWS

EXPERIMENT = parse("nnUNetTrainerMEEP_KL_2epochs_2iters")


def mixed(base):
    return type("Mixed", (MEEPMixin, base), {"experiment": EXPERIMENT})


class HalfByHalf(nnUNetTrainer):
    """Adds up the gradients of the two patches of a batch, and keeps what it made wrong."""

    def train_step(self, batch):
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for half in (slice(0, 1), slice(1, 2)):
            output = self.network(batch["data"][half])
            target = [scale[half] for scale in batch["target"]]
            loss = self.loss(output, target) / 2
            loss.backward()
            losses.append(loss.item())
            wrong = output[0].argmax(1, keepdim=True) != target[0]
            self.__dict__.setdefault("wrong", []).append(wrong.float().mean().item())
            self.__dict__.setdefault("counted", []).append(self.monitor.n_batches)
        self.optimizer.step()
        return {"loss": np.asarray(sum(losses))}


def test_every_loss_of_a_step_counts(balls):
    trainer = balls().trainer(mixed(HalfByHalf))
    trainer.run_training()
    assert_trained(trainer, n_epochs=2)
    log = load(trainer, "checkpoint_final.pth")["logging"]
    expected = np.reshape(trainer.wrong, (2, -1)).mean(1)
    np.testing.assert_allclose(log["misclassified"], expected, rtol=1e-5)
    # One batch waits for the end of its backward pass, not all of a step.
    assert trainer.counted == [0, 1, 2, 3] * 2


def test_a_loss_beside_the_steps_does_not_count(balls):
    class Trying(nnUNetTrainer):
        def on_train_start(self):
            super().on_train_start()
            batch = next(self.dataloader_train)
            self.tried = self.loss(self.network(batch["data"]), batch["target"])

    trainer = balls().trainer(mixed(Trying))
    trainer.run_training()
    assert torch.isfinite(trainer.tried)
    assert_trained(trainer, n_epochs=2)


class PastTheLoss(nnUNetTrainer):
    """Its steps do not call what ``_build_loss()`` returned."""

    def train_step(self, batch):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss.loss(self.network(batch["data"])[0], batch["target"][0])
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach().numpy()}


def test_steps_past_the_loss_train_and_leave_gaps_in_the_log(balls):
    trainer = balls().trainer(mixed(PastTheLoss))
    trainer.run_training()
    log = load(trainer, "checkpoint_final.pth")["logging"]
    for key in ("segmentation_loss", "term_value", "misclassified", "misclassified_entropy"):
        assert np.isnan(log[key]).all(), key
    assert np.isfinite(log["mean_fg_ece"]).all()  # validation is nnU-Net's own


def test_steps_past_the_loss_stop_where_it_is_not_finite(balls):
    trainer = balls().trainer(mixed(PastTheLoss))
    trainer.initialize()
    batch = next(trainer.get_dataloaders()[0])
    batch["data"][:] = np.inf
    del batch["keys"]  # a loader of one's own may have none
    said = r"the loss is nan in epoch 0, iteration 0; the images .* begin the training anew$"
    with pytest.raises(FloatingPointError, match=said):
        trainer.train_step(batch)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_nan_and_both_infinities_stop_a_training(balls, value):
    class Sick(nnUNetTrainer):
        def train_step(self, batch):
            return {"loss": np.asarray(float(value))}

    trainer = balls().trainer(mixed(Sick))
    said = f"^the loss is {value} in epoch 0, iteration 0; the images of the batch are finite "
    with pytest.raises(FloatingPointError, match=said):
        trainer.run_training()


class Overflowing(nnUNetTrainer):
    """In half precision, with some batches whose loss is not finite."""

    n_overflows = MOST_OVERFLOWS - 1

    def initialize(self):
        super().initialize()
        self.grad_scaler = torch.amp.GradScaler(self.device.type)
        self.n = 0

    def train_step(self, batch):
        scaler, self.grad_scaler = self.grad_scaler, None
        result = super().train_step(batch)
        self.grad_scaler = scaler
        self.n += 1
        return {"loss": np.asarray(np.inf)} if 1 < self.n <= 1 + self.n_overflows else result


def test_batches_that_overflow_in_half_precision_are_left_out(balls):
    class Mixed(MEEPMixin, Overflowing):
        experiment = parse("nnUNetTrainerMEEP_KL_1epochs_12iters")

    trainer = balls().trainer(Mixed)
    trainer.run_training()
    text = Path(trainer.log_file).read_text()
    assert len(re.findall(r"The loss is inf in iteration \d+, in half precision", text)) == 9
    log = load(trainer, "checkpoint_final.pth")["logging"]
    assert np.isfinite(log["segmentation_loss"]).all()
    assert trainer.monitor.n_batches == 3

    Overflowing.n_overflows = MOST_OVERFLOWS
    try:
        with pytest.raises(FloatingPointError, match="the loss is inf in epoch 0, iteration 10:"):
            balls("regions").trainer(Mixed).run_training()
    finally:
        Overflowing.n_overflows = MOST_OVERFLOWS - 1


def test_an_image_that_is_not_finite_stops_half_precision_too(balls):
    trainer = balls().trainer(mixed(Overflowing))
    trainer.initialize()
    trainer.n = 1
    batch = next(trainer.get_dataloaders()[0])
    batch["data"][0, 0, 0] = np.nan
    with pytest.raises(FloatingPointError, match=r"iteration 0.* the images .* are not finite"):
        trainer.train_step(batch)


class Penalized(nnUNetTrainer):
    """Has a term of its own in its loss."""

    def _build_loss(self):
        loss = super()._build_loss()
        loss.loss = RegularizedLoss(loss.loss, "CP", weight=0.2)
        return loss


@pytest.mark.parametrize("name", ["DiceCE", "MEEP_KL"])
def test_the_weight_of_a_term_of_ones_own_stays(balls, name):
    class Mixed(MEEPMixin, Penalized):
        experiment = parse(f"nnUNetTrainer{name}_1epochs_2iters")

    trainer = balls().trainer(Mixed)
    trainer.run_training()
    weights = {m.term: m.weight for m in trainer.loss.modules() if isinstance(m, RegularizedLoss)}
    assert weights == {"CP": 0.2, **({"MEEP_KL": 0.3} if name == "MEEP_KL" else {})}
    log = load(trainer, "checkpoint_final.pth")["logging"]
    assert np.isfinite(log["segmentation_loss"]).all()
    assert ("loss: the trainer's own" in Path(trainer.log_file).read_text()) == (name == "DiceCE")


def test_a_subclass_of_a_made_trainer_keeps_what_its_other_base_does(balls):
    class Base(nnUNetTrainer):
        def run_training(self):
            self.ran = True

    class Mine(trainers.nnUNetTrainerMEEP_KL_2epochs_2iters, Base):
        pass

    trainer = balls().trainer(Mine)
    trainer.run_training()
    assert trainer.ran


def test_a_training_that_goes_on_has_other_augmentation_than_at_its_beginning(balls):
    """Background loaders inherit torch's state, and draw from it."""
    trainer = balls().trainer("nnUNetTrainerMEEP_KL_9epochs_2iters_seed1")
    trainer.initialize()
    seeds = set()
    for epoch in (0, 0, 3, 5):
        trainer.current_epoch = epoch
        trainer.get_dataloaders()
        seeds.add(torch.initial_seed())
    assert len(seeds) == 3


class Lost(nnUNetTrainer):
    """Loses the value of its loss."""

    def train_step(self, batch):
        self.lost = super().train_step(batch)["loss"]
        return {"loss": np.asarray(np.nan)}


def test_a_training_that_stops_says_the_parts_of_the_loss_and_the_cases(balls):
    trainer = balls().trainer(mixed(Lost))
    trainer.initialize()
    batch = next(trainer.get_dataloaders()[0])
    with pytest.raises(FloatingPointError) as error:
        trainer.train_step(batch)
    said = str(error.value)
    parts = re.search(r": segmentation loss (\S+) and MEEP_KL (\S+) \(lambda 0.3\);", said)
    assert float(parts[1]) + 0.3 * float(parts[2]) == pytest.approx(trainer.lost, rel=1e-4)
    assert f"(cases {batch['keys'][0]}, {batch['keys'][1]})" in said


class Frozen(nnUNetTrainer):
    """Trains with the normalisation of evaluation."""

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        self.network.eval()


def test_a_training_in_evaluation_mode_is_a_training(balls):
    trainer = balls().trainer(mixed(Frozen))
    trainer.run_training()
    assert_trained(trainer, n_epochs=2)


class Replacing(nnUNetTrainer):
    """Has another loss from its second epoch on."""

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        if self.current_epoch == 1:
            self.loss = self._build_loss()


class Reweighting(nnUNetTrainer):
    """Weights the resolutions in another way from its second epoch on."""

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        if self.current_epoch == 1:
            self.loss = DeepSupervisionWrapper(self.loss.loss, [0.25, 0.75])


@pytest.mark.parametrize("base", [Replacing, Reweighting])
def test_a_loss_that_is_replaced_is_heard_as_well(balls, base):
    trainer = balls().trainer(mixed(base))
    trainer.run_training()
    assert_trained(trainer, n_epochs=2)


class OfThree(torch.nn.Module):
    def forward(self, output, target, data):
        return (output[0] ** 2).mean() + 0 * data.mean()


class WithTheImage(nnUNetTrainer):
    """Its loss takes more than output and target."""

    def _build_loss(self):
        return OfThree()

    def train_step(self, batch):
        loss = self.loss(self.network(batch["data"]), batch["target"], batch["data"])
        return {"loss": loss.detach().numpy()}

    validation_step = train_step

    def on_validation_epoch_end(self, outputs):
        for key, value in (("mean_fg_dice", 0.5), ("dice_per_class_or_region", [0.5, 0.5])):
            self.logger.log(key, value, self.current_epoch)
        self.logger.log("val_losses", np.mean([each["loss"] for each in outputs]), 0)


def test_a_loss_with_more_arguments_is_heard(balls):
    class Mixed(MEEPMixin, WithTheImage):
        experiment = parse("nnUNetTrainerDiceCE_1epochs_2iters")

    trainer = balls().trainer(Mixed)
    trainer.run_training()
    assert_trained(trainer)


class Logging(nnUNetTrainer):
    """Logs a value of its own."""

    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.logger.local_logger.my_fantastic_logging["smallest"] = []
        self.logger.local_logger.verbose = True

    def on_train_epoch_end(self, outputs):
        super().on_train_epoch_end(outputs)
        self.logger.log("smallest", min(each["loss"].item() for each in outputs), 0)


def test_what_another_trainer_logs_stays_in_the_log(balls, capsys):
    class Mixed(MEEPMixin, Logging):
        experiment = parse("nnUNetTrainerMEEP_KL_1epochs_2iters")

    trainer = balls().trainer(Mixed)
    trainer.run_training()
    assert_trained(trainer)
    log = load(trainer, "checkpoint_final.pth")["logging"]
    assert log["smallest"][0] <= log["train_losses"][0]
    assert "logging unexpected_errors: " in capsys.readouterr().out  # verbose as before


def test_the_mixin_behind_another_trainer_is_refused():
    with pytest.raises(TypeError, match="Mixed: MEEPMixin has to stand in front of HalfByHalf"):
        type("Mixed", (HalfByHalf, MEEPMixin), {"experiment": EXPERIMENT})
    helper = type("Helper", (), {})  # no trainer, so it may stand where it wants
    further = type("Further", (helper, mixed(HalfByHalf)), {})
    assert further.experiment is EXPERIMENT
