"""The control of ``_lambdaauto``: its signal, its steps, and both of them in nnU-Net's trainer."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_meep.errors import InputError
from nnunet_meep.losses import RegularizedLoss
from nnunet_meep.trainers import grammar, names
from nnunet_meep.trainers.control import (
    AIM,
    BEGINS_AT,
    BEGINS_LATEST,
    FOUND,
    GAIN,
    HELD_FROM,
    LARGEST_FACTOR,
    MEMORY,
    STARTS,
    WAIT,
    ErrorSums,
    begins,
    first_epoch,
    may_be_too_short,
    next_lambda,
    signal,
)
from nnunet_meep.trainers.mixin import MEEPMixin

LENGTHS = (20, 50, 1000)
every_length = pytest.mark.parametrize("n_epochs", LENGTHS)
NO_VOXEL = ErrorSums(0, 0, 0)


def epoch_with(r: float, errors: float = 1e4) -> ErrorSums:
    """The sums of an epoch in which the share r of the errors is unexpected."""
    return ErrorSums(1e6, errors, errors * (1 - r))


def run(answer, n_epochs: int, *, start: float = 0.4, dice=lambda _: [0.8]) -> list[float]:
    """Lambda of each epoch where ``answer(lambda, epoch)`` gives the sums, ``dice(epoch)`` that."""
    weights, epochs, dices = [0.0], [], []
    for epoch in range(n_epochs - 1):
        epochs.append(answer(weights[-1], epoch))
        dices.append(dice(epoch))
        goes_on = first_epoch(weights) is not None or begins(dices, epochs, n_epochs)
        weights.append(next_lambda(weights, epochs, n_epochs, start=start) if goes_on else 0.0)
    return weights


# The signal


def test_the_signal_of_one_epoch_is_that_of_its_sums():
    assert signal([ErrorSums(1000, 20, 5)], 50) == pytest.approx((0.005, 0.02, 0.75))


@every_length
def test_an_epoch_fades_to_1_over_e_within_the_memory(n_epochs):
    n = round(MEMORY * n_epochs) or 1
    later = ErrorSums(100, 10, 10)
    first = ErrorSums(100, 0, 0)
    _, a, *_ = signal([first, *[later] * n], n_epochs)
    keep = math.exp(-1 / (MEMORY * n_epochs))
    newer = sum(keep**i for i in range(n))
    assert a == pytest.approx(0.1 * newer / (newer + keep**n))
    if n_epochs == 1000:  # a whole number of epochs
        assert keep**n == pytest.approx(1 / math.e)


def test_an_epoch_counts_by_the_voxels_it_saw():
    _, a, *_ = signal([ErrorSums(1e6, 1e4, 1e4), ErrorSums(1, 1, 0)], 1000)
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
    e, a, r, *_ = signal([ErrorSums(100, 0, 2)], 50)
    assert (e, a) == (0.02, 0)
    assert math.isnan(r)


def test_the_averages_begin_anew_with_the_term():
    plain, with_term = ErrorSums(100, 10, 1), ErrorSums(100, 10, 8)
    assert signal([plain] * 20, 50).unexpected == pytest.approx(0.9)
    assert signal([plain] * 20 + [with_term], 50, 20).unexpected == pytest.approx(0.2)
    assert signal([plain] * 20, 50, 20).unexpected == pytest.approx(0.9)


# The control


@every_length
@pytest.mark.parametrize("start", STARTS.values())
def test_there_is_no_term_and_then_its_first_lambda(n_epochs, start):
    weights = run(lambda *_: epoch_with(0.5), n_epochs, start=start)
    first, moves = math.ceil(BEGINS_AT * n_epochs), math.ceil((BEGINS_AT + WAIT) * n_epochs)
    assert not any(weights[:first])
    assert set(weights[first : moves + 1]) >= {start}
    assert weights[first:moves] == [start] * (moves - first)
    assert weights[moves] > start


@every_length
def test_it_waits_for_a_class_that_is_found_late(n_epochs):
    """As long as its pseudo Dice, averaged over the memory, is too low; then it begins as ever."""
    found = math.ceil(0.5 * n_epochs)
    weights = run(
        lambda *_: epoch_with(0.5),
        n_epochs,
        dice=lambda epoch: [0.8, 0.8 if epoch >= found else 0.1],
    )
    begun = first_epoch(weights)
    # With 0.1 and 0.8, the average reaches 0.5 when 4/7 of it are from after the class was found.
    memory = max(1, round(MEMORY * n_epochs))
    assert begun == found + math.ceil(memory * (FOUND - 0.1) / 0.7)
    n_kept = math.ceil(begun + WAIT * n_epochs - 1e-9) - begun
    assert weights[begun : begun + n_kept] == [0.4] * n_kept
    assert weights[begun + n_kept] > 0.4


@every_length
@pytest.mark.parametrize("dice", [[0.8, 0.1], [0.0], [FOUND - 0.01]])
def test_it_does_not_wait_for_ever(n_epochs, dice):
    weights = run(lambda *_: epoch_with(0.5), n_epochs, dice=lambda _: dice)
    assert first_epoch(weights) == math.ceil(BEGINS_LATEST * n_epochs)


@pytest.mark.parametrize("dice", [[FOUND], [0.8, math.nan], [math.nan]])
def test_a_class_that_is_in_no_patch_is_not_waited_for(dice):
    assert first_epoch(run(lambda *_: epoch_with(0.5), 50, dice=lambda _: dice)) == 20


@every_length
def test_an_underconfident_network_never_gets_the_term(n_epochs):
    assert not any(run(lambda *_: epoch_with(-0.01), n_epochs))
    assert first_epoch(run(lambda *_: epoch_with(0.01), n_epochs)) == 0.4 * n_epochs


@every_length
@pytest.mark.parametrize("at", [0.3, 0.5, 0.8])
def test_it_begins_once_a_network_is_underconfident_no_more(n_epochs, at):
    changes = math.ceil(at * n_epochs)
    weights = run(lambda _, epoch: epoch_with(0.1 if epoch >= changes else -0.5), n_epochs)
    assert first_epoch(weights) == max(0.4 * n_epochs, changes + 1)


@every_length
def test_it_does_not_wait_for_a_network_that_was_overconfident_a_fifth_of_the_training_ago(
    n_epochs,
):
    """For a while, r falls below 0 when a class is found; here until the end."""
    for at, begun in (
        (round(0.2 * n_epochs), 0.4 * n_epochs),
        (round(0.2 * n_epochs) - 1, None),
    ):
        weights = run(lambda _, e, at=at: epoch_with(0.5 if e == at else -0.5), n_epochs)
        assert first_epoch(weights) == begun


def test_the_term_begins_only_if_an_epoch_could_be_measured():
    assert not begins([[0.8]] * 30, [NO_VOXEL] * 30, 50)
    assert not begins([[0.8]] * 30, [*[NO_VOXEL] * 27, epoch_with(-1), NO_VOXEL, NO_VOXEL], 50)
    assert begins([[0.8]] * 30, [*[NO_VOXEL] * 27, epoch_with(0.1), NO_VOXEL, NO_VOXEL], 50)


@pytest.mark.parametrize(
    ("weights", "begun"),
    [([], None), ([0, 0], None), ([0, 0.4, 0.5], 1), ([0.4, math.nan, 0.4], 2), ([0.4, 0], None)],
)
def test_the_term_has_begun_where_lambda_rose_above_0_for_good(weights, begun):
    assert first_epoch(weights) == begun


@every_length
@pytest.mark.parametrize("r", [-0.2, 0.1, 0.3])
def test_the_same_share_of_a_training_multiplies_lambda_by_the_same(n_epochs, r):
    """The integral of the gain, in closed form."""
    weights = run(lambda weight, _: epoch_with(r if weight else 0.5), n_epochs)
    first, last = ((1 - x) / (1 - BEGINS_AT) for x in (BEGINS_AT + WAIT, HELD_FROM))
    whole = GAIN * (r - AIM) * (1 - BEGINS_AT) * (first**1.5 - last**1.5) / 1.5
    assert math.log(weights[-1] / 0.4) == pytest.approx(whole, rel=0.05 + 1 / n_epochs)


@every_length
@pytest.mark.parametrize("needed", [0.2, 0.4, 1.1])
@pytest.mark.parametrize("plain", [0.6, 0.9])
@pytest.mark.parametrize("delay", [0.01, 0.05])
def test_it_settles_where_errors_are_expected(n_epochs, needed, plain, delay):
    """A network whose unexpected share falls with lambda, and answers late, ever more slowly."""
    felt, shares = 0.0, []

    def answer(weight, epoch):
        nonlocal felt
        rate = ((1 - epoch / n_epochs) / 0.6) ** 0.9
        felt += (1 - math.exp(-rate / (delay * n_epochs))) * (weight - felt)
        shares.append(AIM + (plain - AIM) * (1 - felt / needed))
        return epoch_with(shares[-1])

    weights = run(answer, n_epochs)
    assert weights[-1] == pytest.approx(needed, rel=0.2)
    assert abs(shares[-1] - AIM) < 0.15


@every_length
@pytest.mark.parametrize("at", [0.1, 0.3, 0.39])
def test_what_happens_before_the_term_begins_leaves_no_trace(n_epochs, at):
    """A class that is found: errors change at once, the expected ones do not."""

    def with_event(_, epoch):
        return epoch_with(-20, 1e5) if epoch == int(at * n_epochs) else epoch_with(0.2)

    assert run(with_event, n_epochs) == run(lambda *_: epoch_with(0.2), n_epochs)


def test_one_epoch_of_many_errors_or_of_few_is_no_jump():
    def with_event(sums):
        weights = run(lambda _, epoch: sums if epoch == 30 else epoch_with(AIM), 50)
        return weights[31] / weights[30]

    assert with_event(epoch_with(AIM, 1)) == pytest.approx(1, abs=0.02)
    assert with_event(epoch_with(0.9, 1)) == pytest.approx(1, abs=0.02)
    assert with_event(epoch_with(-50.0, 1e6)) == pytest.approx(
        math.exp(-(1 + AIM) * GAIN / 50 * math.sqrt((1 - 31 / 50) / 0.6))
    )


@every_length
def test_it_is_held_at_the_end(n_epochs):
    weights = run(lambda *_: epoch_with(0.1), n_epochs)
    held = weights[math.ceil(HELD_FROM * n_epochs) - 1 :]
    assert len(set(held)) == 1
    assert weights[-len(held) - 1] < held[0] or n_epochs < 30


@given(
    weight=st.floats(0, 5),
    last=st.tuples(*[st.floats(0, 1e9)] * 3),
    n_done=st.integers(1, 100),
    n_epochs=st.integers(1, 100),
    start=st.sampled_from(list(STARTS.values())),
)
def test_lambda_stays_between_its_limits(weight, last, n_done, n_epochs, start):
    epochs = [epoch_with(0.3)] * (n_done - 1) + [ErrorSums(*last)]
    weights = [0.0] * (n_done - 1) + [min(weight, LARGEST_FACTOR * start)]
    after = next_lambda(weights, epochs, n_epochs, start=start)
    assert 0 < after <= LARGEST_FACTOR * start


@pytest.mark.parametrize(
    "last", [NO_VOXEL, ErrorSums(math.nan, math.nan, math.nan), ErrorSums(1e6, 5, math.inf)]
)
def test_without_a_signal_lambda_stays(last):
    weights = [0.0] * 20 + [0.2] * 11
    assert next_lambda(weights, [epoch_with(0.5)] * 30 + [last], 50, start=0.4) == 0.2


def test_without_an_error_lambda_stays():
    weights = [0.0] * 20 + [0.2] * 10
    assert next_lambda(weights, [ErrorSums(100, 0, 2)] * 30, 50, start=0.4) == 0.2


# The name


@pytest.mark.parametrize("loss", grammar.SEGMENTATION_LOSSES)
@pytest.mark.parametrize("term", STARTS)
def test_every_term_that_has_a_first_lambda_and_its_losses_take_it(loss, term):
    if loss not in grammar.TERMS[term].weights:
        return
    name = grammar.base_name(loss, term) + "_lambdaauto_50epochs"
    experiment = names.parse(name)
    assert (experiment.auto, experiment.weight, experiment.term) == (True, 0.0, term)
    assert experiment.active_term == term
    assert "the training finds" in names.explain(experiment)["term"]


def test_a_rival_begins_with_its_published_weight():
    published = {"CP": 0.2, "LS": 0.1, "SVLS": 1.0, "MbLS": 0.1, "NACL": 0.1}
    assert published.items() < STARTS.items()
    assert STARTS.keys() == published.keys() | {"MEEP_KL", "MEEP_H"}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("nnUNetTrainerDice_lambdaauto", "nnUNetTrainerDiceMEEP_KL_lambdaauto"),
        ("nnUNetTrainerMEEP_KL_lambda_auto", "nnUNetTrainerMEEP_KL_lambdaauto"),
        ("nnUNetTrainerMEEP_KL_lambdaAuto", "nnUNetTrainerMEEP_KL_lambdaauto"),
        ("nnUNetTrainerDice_lambdaAuto", "nnUNetTrainerDiceMEEP_KL_lambdaauto"),
        ("nnUNetTrainerMEEP_KL_lambda=auto", "nnUNetTrainerMEEP_KL_lambdaauto"),
        ("nnUNetTrainerMEEP_KL_auto_50epochs", "nnUNetTrainerMEEP_KL_lambdaauto_50epochs"),
        ("nnUNetTrainerMEEP_H_autolambda", "nnUNetTrainerMEEP_H_lambdaauto"),
        ("nnUNetTrainerMEEP_H_50epochs_lambdaauto", "nnUNetTrainerMEEP_H_lambdaauto_50epochs"),
    ],
)
def test_wrong_names_are_refused_with_the_right_one(wrong, right):
    with pytest.raises(names.TrainerNameError, match=f"the nearest right name is {right}$"):
        names.parse(wrong)
    assert names.parse(right) is not None


# In nnU-Net's trainer


def _keyed(sums: ErrorSums) -> dict[str, float]:
    return {f"validation_{key}": value for key, value in sums._asdict().items()}


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
    sums = np.array([log[f"validation_{key}"] for key in ErrorSums._fields]).T
    assert (sums[:, 0] > 0).all()
    # Three epochs without a term, as no class is found, one with the first lambda, then steps.
    keep = np.exp(-1 / (0.06 * 5))
    average, start = np.zeros(3), 0.15
    expected = [0.0, 0.0, 0.0, start]
    assert np.mean(log["dice_per_class_or_region"][2]) < 0.5
    for epoch in range(5):
        average = sums[epoch] if epoch == 3 else keep * average + sums[epoch]
        r = 1 - average[2] / average[1]
        assert log["average_expected"][epoch] == pytest.approx(average[2] / average[0])
        assert log["average_errors"][epoch] == pytest.approx(average[1] / average[0])
        assert log["average_unexpected"][epoch] == pytest.approx(r)
        if epoch >= 3:
            excess = (sums[epoch, 1] - sums[epoch, 2]) / sums[epoch, 0]
            over = (epoch + 1) / 5
            step = 18 / 5 * np.sqrt((1 - over) / 0.6)
            step *= np.clip(excess / (average[1] / average[0]), -1, 1) - 0.05
            expected.append(min(expected[-1] * np.exp(step), 8 * start))
    assert log["lambda"] == used
    assert used == pytest.approx(expected[:5])
    text = Path(trainer.log_file).read_text()
    assert f"lambda {used[4]:.4g}: expects " in text


@pytest.mark.slow
def test_resuming_goes_on_with_the_same_lambda_and_averages(balls, monkeypatch):
    """Interrupted and not: the same weights, on the same batches (a seed, no workers)."""
    # Steps from the first epoch on.
    monkeypatch.setattr(
        "nnunet_meep.trainers.controller.next_lambda",
        lambda w, epochs, n, start: (w or [0])[-1] + sum(e.errors for e in epochs) / 1e6,
    )
    monkeypatch.setattr("nnunet_meep.trainers.controller.begins", lambda *_: True)
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


@pytest.mark.parametrize(("n_done", "weight"), [(1, 0), (2, 0.4), (3, 0.4)])
def test_a_log_without_lambda_begins_once_an_epoch_is_measured(balls, n_done, weight):
    """A training that plain nnU-Net began, in this trainer's folder."""
    trainer = balls().trainer("nnUNetTrainerMEEP_H_lambdaauto_5epochs_2iters")
    trainer.initialize()
    log = trainer.logger.local_logger
    log.load_checkpoint(
        {"train_losses": [1.0] * n_done, "dice_per_class_or_region": [[0.8]] * n_done}
    )
    trainer.current_epoch = n_done
    assert trainer._weight() == 0
    for key, value in _keyed(epoch_with(0.5)).items():
        log.my_fantastic_logging[key] = [*[math.nan] * (n_done - 1), value]
    assert trainer._weight() == weight


@pytest.mark.slow
def test_a_rival_is_trained_with_it(balls):
    trainer = balls().trainer("nnUNetTrainerCESVLS_lambdaauto_3epochs_1iters", "2d")
    trainer.run_training()
    log = log_of(trainer)
    assert log["lambda"] == [0, 0, 1]
    whole = np.add(log["segmentation_loss"], np.multiply(log["lambda"], log["term_value"]))
    np.testing.assert_allclose(whole, log["train_losses"], rtol=1e-5)


@pytest.mark.parametrize(("term", "largest"), [("SVLS", 2.0), ("LS", 0.8), ("NACL", 0.8)])
def test_lambda_stays_where_the_term_has_a_meaning(balls, term, largest):
    """However overconfident the network is: of SVLS, shares of the target would become negative."""
    trainer = balls().trainer(f"nnUNetTrainer{term}_lambdaauto_100epochs_2iters")
    trainer.initialize()
    for epoch in range(100):
        values = {"dice_per_class_or_region": [0.8], **_keyed(epoch_with(1.0))}
        for key, value in {"lambda": trainer.controller.weight(epoch, 100), **values}.items():
            trainer.logger.log(key, value, epoch)
    found = trainer.logger.get_value("lambda", step=None)
    assert max(found) == found[-1] == pytest.approx(largest)


@pytest.mark.parametrize("n_epochs", [*range(1, 40), 50, 250, 1000])
def test_a_training_is_too_short_if_a_network_that_finds_nothing_never_gets_the_term(n_epochs):
    gets_it = any(
        begins([[0.0]] * epoch, [epoch_with(0.5)] * epoch, n_epochs) for epoch in range(n_epochs)
    )
    assert may_be_too_short(n_epochs) == (not gets_it)
    told = names.explain(names.parse(f"nnUNetTrainerMEEP_H_lambdaauto_{n_epochs}epochs"))
    assert ("may be trained without its term" in told["term"]) == (not gets_it)


@pytest.mark.parametrize(
    ("weights", "dice", "said"),
    [
        ([0.0], [0.5], r"^lambda was 0 to the end: a training of 1 epoch is too short"),
        ([0.0] * 5, [0.5] * 5, r"^lambda was 0 to the end: .* the network expected more errors"),
        (
            [0.0, 0.0, 0.15, 0.2],
            [0.1, 0.3, 0.2, 0.25],
            r"^lambda: 0.2 in the last epoch, of checkpoint_final; 0 in epoch 1, of "
            r"checkpoint_best, which was trained without the term",
        ),
        ([0.0, 0.15, 0.2], [0.1, 0.3, 0.2], r"; 0.15 in epoch 1, of checkpoint_best$"),
        ([0.0, 0.15, 0.2], [0.1, 0.3, math.nan], r"; 0.15 in epoch 1, of checkpoint_best$"),
        (
            [0.0, 0.15, 0.2],
            [0.1, 0.3, 0.4],
            r"^lambda: 0.2 in the last epoch, of checkpoint_final$",
        ),
    ],
)
def test_the_log_tells_the_checkpoints_apart(balls, weights, dice, said):
    trainer = balls().trainer("nnUNetTrainerMEEP_KL_lambdaauto_5epochs_2iters")
    trainer.initialize()
    own = trainer.logger.local_logger.my_fantastic_logging
    own["lambda"], own["ema_fg_dice"] = weights, dice
    for key, value in _keyed(epoch_with(-0.5)).items():
        own[key] = [value] * len(weights)
    assert re.search(said, trainer.controller.of_training(saved=True))
    assert "checkpoint" not in trainer.controller.of_training(saved=False)


def test_the_log_says_that_nothing_could_be_measured(balls):
    trainer = balls().trainer("nnUNetTrainerMEEP_KL_lambdaauto_5epochs_2iters")
    trainer.initialize()
    for epoch in range(5):
        values = {"lambda": trainer.controller.weight(epoch, 5), **_keyed(NO_VOXEL)}
        for key, value in {**values, "dice_per_class_or_region": [0.8]}.items():
            trainer.logger.log(key, value, epoch)
    said = trainer.controller.of_training(saved=True)
    assert said.startswith("lambda was 0 to the end: nothing could be measured")


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
    for epoch in range(2):
        values = {"lambda": 0.0, "dice_per_class_or_region": [0.8], **_keyed(epoch_with(0.5))}
        for key, value in values.items():
            trainer.logger.log(key, value, epoch)
    trainer.current_epoch = 2
    trainer._follow_loss()
    assert term.weight == STARTS["MEEP_KL"]


@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("MEEP_KL_lambdaauto", "MEEP_KL"),
        ("MEEP_KL_lambda0p3", "MEEP_KL"),
        ("Focal", "Focal"),
        ("DSCpp", "DSCpp"),
        ("Dice", "Dice"),
        ("DiceCE", None),
        ("MEEP_KL_lambda0", None),
    ],
)
def test_a_loss_without_what_is_asked_for_is_refused(balls, name, lacks):
    class Mine(MEEPMixin):
        experiment = names.parse(f"nnUNetTrainer{name}_1epochs_1iters")

        def initialize(self):
            super().initialize()
            self.loss = nnUNetTrainer._build_loss(self)
            self._follow_loss()  # as each epoch does

    trainer = balls().trainer(Mine)
    if lacks is None:
        trainer.initialize()
    else:
        with pytest.raises(InputError, match=f"Wrapper, does not contain {lacks}; let _build_loss"):
            trainer.initialize()


def test_all_cases_as_a_fold_are_refused(balls):
    """Before nnU-Net makes a folder and a log for them."""
    project = balls()
    before = sorted(project.folder.rglob("*"))
    with pytest.raises(SystemExit, match="-f all: its validation cases are training cases"):
        project.trainer("nnUNetTrainerMEEP_KL_lambdaauto_1epochs_1iters", fold="all")
    assert sorted(project.folder.rglob("*")) == before


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
    with pytest.raises(InputError, match="of this trainer none are known; give a lambda"):
        trainer.run_training()
