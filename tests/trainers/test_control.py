"""The control of ``_lambdaauto``: its signal, its steps, and both of them in nnU-Net's trainer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_meep.losses import RegularizedLoss
from nnunet_meep.trainers import names
from nnunet_meep.trainers.control import (
    GAIN,
    HELD_FROM,
    LARGEST_LAMBDA,
    MEMORY,
    ErrorSums,
    next_lambda,
    signal,
)
from nnunet_meep.trainers.mixin import MEEPMixin

LENGTHS = (20, 50, 1000)
every_length = pytest.mark.parametrize("n_epochs", LENGTHS)
NO_VOXEL = ErrorSums(0, 0, 0)


def run(answer, n_epochs: int) -> list[float]:
    """Lambda of each epoch where ``answer(lambda, epoch)`` is the unexpected share."""
    weights = [0.0]
    for epoch in range(n_epochs - 1):
        weights.append(next_lambda(weights[-1], answer(weights[-1], epoch), epoch + 1, n_epochs))
    return weights


# The signal


def test_the_signal_of_one_epoch_is_that_of_its_sums():
    e, a, r = signal([ErrorSums(1000, 20, 5)], 50)
    assert (e, a, r) == pytest.approx((0.005, 0.02, 0.75))


@every_length
def test_an_epoch_fades_to_1_over_e_within_the_memory(n_epochs):
    n = round(MEMORY * n_epochs) or 1
    later = ErrorSums(100, 10, 10)
    first = ErrorSums(100, 0, 0)
    _, a, _ = signal([first, *[later] * n], n_epochs)
    keep = math.exp(-1 / (MEMORY * n_epochs))
    newer = sum(keep**i for i in range(n))
    assert a == pytest.approx(0.1 * newer / (newer + keep**n))
    if n_epochs == 1000:  # a whole number of epochs
        assert keep**n == pytest.approx(1 / math.e)


def test_an_epoch_counts_by_the_voxels_it_saw():
    _, a, _ = signal([ErrorSums(1e6, 1e4, 1e4), ErrorSums(1, 1, 0)], 1000)
    assert a == pytest.approx(0.01, rel=1e-3)


@given(before=st.integers(0, 3), after=st.integers(0, 3))
def test_an_epoch_without_a_voxel_or_a_number_changes_nothing(before, after):
    epochs = [ErrorSums(100, 10, 3)] * before + [ErrorSums(100, 1, 2)] * after
    nan = math.nan
    gap = [
        NO_VOXEL,
        ErrorSums(nan, nan, nan),
        ErrorSums(100, 10, nan),
        ErrorSums(100, 10, math.inf),
    ]
    with_gap = epochs[:before] + gap + epochs[before:]
    np.testing.assert_equal(signal(with_gap, 50), signal(epochs, 50))


def test_before_the_first_voxel_or_error_there_is_no_signal():
    assert all(map(math.isnan, signal([], 50)))
    assert all(map(math.isnan, signal([NO_VOXEL], 50)))
    e, a, r = signal([ErrorSums(100, 0, 2)], 50)
    assert (e, a) == (0.02, 0)
    assert math.isnan(r)


def test_few_errors_in_an_epoch_are_no_jump():
    steady = [ErrorSums(10_000, 100, 50)] * 20
    _, _, before = signal(steady, 50)
    _, _, after = signal([*steady, ErrorSums(10_000, 1, 50)], 50)
    assert before == pytest.approx(0.5)
    assert 0.2 < after < before


# The control


@every_length
@pytest.mark.parametrize("r", [0.05, 0.2])
def test_the_same_share_of_a_training_brings_the_same_lambda(n_epochs, r):
    weights = run(lambda *_: r, n_epochs)
    assert weights[n_epochs // 2] == pytest.approx(GAIN * r / 2)
    assert weights[-1] == pytest.approx(GAIN * r * HELD_FROM, abs=1.01 * GAIN * r / n_epochs)


@every_length
@pytest.mark.parametrize(("at_0", "slope"), [(0.9, 1.8), (0.6, 4.0), (0.9, 6.0), (0.9, 8.0)])
def test_it_settles_where_errors_are_expected(n_epochs, at_0, slope):
    """A network whose unexpected share falls with lambda, answers late, and is unsure at first."""
    weights, seen, epochs = [0.0], [at_0], []
    for epoch in range(n_epochs):
        unsure = math.exp(-epoch / (0.05 * n_epochs))
        r = seen[-1] + (at_0 - slope * weights[-1] - seen[-1]) / (1 + 0.05 * n_epochs)
        errors = 1e4 * (1 + 30 * unsure)
        epochs.append(ErrorSums(1e6, errors, errors * (1 - r) + 5e5 * unsure))
        seen.append(r)
        _, _, unexpected = signal(epochs, n_epochs)
        weights.append(next_lambda(weights[-1], unexpected, epoch + 1, n_epochs))
    assert weights[-1] == pytest.approx(at_0 / slope, abs=0.04)
    assert abs(seen[-1]) < 0.2


@every_length
def test_it_is_held_over_the_last_tenth(n_epochs):
    weights = run(lambda *_: 0.3, n_epochs)
    held = weights[math.ceil(HELD_FROM * n_epochs) - 1 :]
    assert len(held) >= n_epochs / 10
    assert len(set(held)) == 1
    assert len(set(weights)) == n_epochs - len(held) + 1


@given(
    weight=st.floats(0, LARGEST_LAMBDA),
    r=st.floats(allow_nan=False),
    n_done=st.integers(1, 100),
    n_epochs=st.integers(1, 100),
)
def test_lambda_stays_between_its_limits_and_goes_by_small_steps(weight, r, n_done, n_epochs):
    after = next_lambda(weight, r, n_done, n_epochs)
    assert 0 <= after <= LARGEST_LAMBDA
    assert abs(after - weight) <= GAIN / n_epochs * (1 + 1e-9)
    assert (after - weight) * math.copysign(1, r) >= 0


def test_without_a_signal_lambda_stays():
    assert next_lambda(0.2, math.nan, 5, 50) == 0.2


# The name


@pytest.mark.parametrize("loss", names.SEGMENTATION_LOSSES)
@pytest.mark.parametrize("term", ["MEEP_KL", "MEEP_H"])
def test_both_terms_and_all_losses_take_it(loss, term):
    name = names.base_name(loss, term) + "_lambdaauto_50epochs"
    experiment = names.parse(name)
    assert (experiment.auto, experiment.weight, experiment.term) == (True, 0.0, term)
    assert experiment.active_term == term
    assert "the training finds" in names.explain(experiment)["term"]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("nnUNetTrainerCP_lambdaauto", "nnUNetTrainerCP"),
        ("nnUNetTrainerDice_lambdaauto", "nnUNetTrainerDiceMEEP_KL_lambdaauto"),
        ("nnUNetTrainerMEEP_KL_lambda_auto", "nnUNetTrainerMEEP_KL_lambdaauto"),
        ("nnUNetTrainerMEEP_KL_lambdaAuto", "nnUNetTrainerMEEP_KL_lambdaauto"),
        ("nnUNetTrainerDice_lambdaAuto", "nnUNetTrainerDiceMEEP_KL_lambdaauto"),
        ("nnUNetTrainerMEEP_KL_lambda=auto", "nnUNetTrainerMEEP_KL_lambdaauto"),
        ("nnUNetTrainerMEEP_KL_auto_50epochs", "nnUNetTrainerMEEP_KL_lambdaauto_50epochs"),
        ("nnUNetTrainerMEEP_H_autolambda", "nnUNetTrainerMEEP_H_lambdaauto"),
        ("nnUNetTrainerMEEP_H_50epochs_lambdaauto", "nnUNetTrainerMEEP_H_lambdaauto_50epochs"),
        ("nnUNetTrainerMEEP_KL_lambdaauto0p3", "nnUNetTrainerMEEP_KL_lambdaauto"),
    ],
)
def test_wrong_names_are_refused_with_the_right_one(wrong, right):
    with pytest.raises(names.TrainerNameError, match=f"the nearest right name is {right}$"):
        names.parse(wrong)
    assert names.parse(right) is not None


# In nnU-Net's trainer


def log_of(trainer) -> dict:
    checkpoint = Path(trainer.output_folder) / "checkpoint_final.pth"
    return torch.load(checkpoint, weights_only=False)["logging"]


def weights_of(trainer) -> dict:
    return {key: value.clone() for key, value in trainer.network.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["labels", "regions+ignore"])
def test_lambda_of_each_epoch_follows_from_the_sums_before_it(balls, kind):
    trainer = balls(kind).trainer("nnUNetTrainerDiceMEEP_KL_lambdaauto_5epochs_2iters_seed1")
    used = []
    inner = trainer.on_train_epoch_end

    def note_weight(outputs):
        loss = trainer.loss
        loss = loss.loss if isinstance(loss, DeepSupervisionWrapper) else loss
        assert isinstance(loss, RegularizedLoss)
        used.append(loss.weight)
        inner(outputs)

    trainer.on_train_epoch_end = note_weight
    trainer.run_training()
    log = log_of(trainer)
    keys = ("validation_voxels", "validation_errors", "validation_expected_errors")
    sums = np.array([log[key] for key in keys]).T
    assert (sums[:, 0] > 0).all()
    keep = np.exp(-1 / (0.06 * 5))
    average, expected = np.zeros(3), [0.0]
    for epoch in range(5):
        average = keep * average + sums[epoch]
        r = 1 - average[2] / average[1]
        assert log["average_expected"][epoch] == pytest.approx(average[2] / average[0])
        assert log["average_errors"][epoch] == pytest.approx(average[1] / average[0])
        assert log["average_unexpected"][epoch] == pytest.approx(r)
        step = 2.5 / 5 * np.clip(r, -1, 1) if epoch + 1 < 0.9 * 5 else 0
        expected.append(float(np.clip(expected[-1] + step, 0, 1)))
    assert log["lambda"] == used
    assert used == pytest.approx(expected[:5])
    text = Path(trainer.log_file).read_text()
    assert f"lambda {used[3]:.4g}: expects " in text


@pytest.mark.slow
def test_resuming_goes_on_with_the_same_lambda_and_averages(balls, monkeypatch):
    """Interrupted and not: the same weights, on the same batches (a seed, no workers)."""
    # A network that has just begun is unsure: lambda would stay at 0.
    monkeypatch.setattr("nnunet_meep.trainers.mixin.next_lambda", lambda w, r, *_: w + abs(r) / 9)
    name = "nnUNetTrainerMEEP_KL_lambdaauto_4epochs_2iters_seed1"
    project = balls()
    whole = project.trainer(name, results="whole")
    whole.run_training()
    interrupted = project.trainer(name)

    class Interruption(Exception):
        pass

    def stop():
        if interrupted.current_epoch == 2:
            raise Interruption

    begin = interrupted.on_epoch_start
    interrupted.on_epoch_start = lambda: (stop(), begin())
    with pytest.raises(Interruption):
        interrupted.run_training()
    resumed = project.trainer(name, resume=True)
    resumed.load_checkpoint(str(Path(interrupted.output_folder) / "checkpoint_latest.pth"))
    assert resumed.current_epoch == 2
    resumed.run_training()
    one, other = log_of(resumed), log_of(whole)
    for key in ("lambda", "average_expected", "average_errors", "average_unexpected"):
        assert one[key] == other[key]
    assert len(set(one["lambda"])) > 2
    expected = weights_of(whole)
    assert all(torch.equal(value, expected[key]) for key, value in weights_of(resumed).items())


def test_a_log_without_lambda_begins_at_0(balls):
    """A training that plain nnU-Net began, in this trainer's folder."""
    trainer = balls().trainer("nnUNetTrainerMEEP_KL_lambdaauto_4epochs_2iters")
    trainer.initialize()
    log = trainer.logger.local_logger
    log.load_checkpoint({"train_losses": [1.0, 0.5]})
    trainer.current_epoch = 2
    assert trainer._weight() == 0


def test_lambda_reaches_a_term_inside_of_another_loss(balls):
    class Doubled(torch.nn.Module):
        def __init__(self, loss):
            super().__init__()
            self.whole = loss

        def forward(self, logits, target):
            return 2 * self.whole(logits, target)

    class Mine(MEEPMixin):
        experiment = names.parse("nnUNetTrainerMEEP_KL_lambdaauto_4epochs_2iters")

        def _build_loss(self):
            return Doubled(super()._build_loss())

    trainer = balls().trainer(Mine)
    trainer.initialize()
    (term,) = (m for m in trainer.loss.modules() if isinstance(m, RegularizedLoss))
    for key, value in {"lambda": 0.2, "average_unexpected": 0.5}.items():
        trainer.logger.log(key, value, 0)
    trainer.current_epoch = 1
    trainer._listen()
    assert term.weight == pytest.approx(0.2 + 2.5 / 4 * 0.5)


def test_a_loss_without_the_term_is_refused(balls):
    class Mine(MEEPMixin):
        experiment = names.parse("nnUNetTrainerMEEP_KL_lambdaauto_1epochs_1iters")

        def _build_loss(self):
            super()._build_loss()
            return torch.nn.CrossEntropyLoss()

    with pytest.raises(SystemExit, match="CrossEntropyLoss, does not contain the term"):
        balls().trainer(Mine).initialize()


def test_all_cases_as_a_fold_are_refused(balls):
    trainer = balls().trainer("nnUNetTrainerMEEP_KL_lambdaauto_1epochs_1iters", fold="all")
    with pytest.raises(SystemExit, match="-f all: its validation cases are training cases"):
        trainer.run_training()


def test_a_split_that_trains_on_validation_cases_is_refused(balls, monkeypatch):
    """nnU-Net only warns."""
    monkeypatch.setattr(nnUNetTrainer, "do_split", lambda _: (["a", "b", "c"], ["c", "d"]))
    trainer = balls().trainer("nnUNetTrainerMEEP_KL_lambdaauto_1epochs_1iters")
    with pytest.raises(SystemExit, match="-f 0: 1 of its 2 validation cases are training cases"):
        trainer.run_training()


def test_a_trainer_without_free_validation_patches_is_refused(balls):
    project = balls()

    class Forced(MEEPMixin):
        experiment = names.parse("nnUNetTrainerMEEP_KL_lambdaauto_1epochs_1iters")

        def __init__(self, plans, configuration, fold, dataset_json, device):
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.oversample_foreground_percent = 1.0

    trainer = project.trainer(Forced)
    with pytest.raises(SystemExit, match="of this trainer none are known; give a lambda"):
        trainer.run_training()
