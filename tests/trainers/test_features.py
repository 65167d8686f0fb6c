"""What nnU-Net can do, done by trainers of ours: each for a few iterations on small volumes."""

from __future__ import annotations

import copy
import functools
import itertools
import multiprocessing
import random
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small_project
import torch
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import (
    nnUNetTrainerDA5,
)
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
    nnUNetTrainerNoMirroring,
)
from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerTopkLoss import (
    nnUNetTrainerTopk10Loss,
)
from nnunetv2.training.nnUNetTrainer.variants.lr_schedule.nnUNetTrainer_warmup import (
    nnUNetTrainer_warmup,
)
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (  # noqa: E501
    nnUNetTrainerNoDeepSupervision,
)
from nnunetv2.training.nnUNetTrainer.variants.sampling.nnUNetTrainer_probabilisticOversampling import (  # noqa: E501
    nnUNetTrainer_probabilisticOversampling,
)
from small_project import assert_trained, load, weights

from nnunet_meep import __version__
from nnunet_meep.losses.regularized import LossParts
from nnunet_meep.trainers import MEEPMixin, parse
from nnunet_meep.trainers.monitor import TrainingMonitor
from nnunet_meep.trainers.progress import KEYS, CalibrationLogger
from nnunet_meep.trainers.report import epoch_lines
from nnunet_meep.trainers.schedule import StepDecay

CPU = torch.device("cpu")
TOPKS_OWN_WARNING = "ignore:size_average and reduce args will be deprecated:UserWarning"


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key


def recorded(project, n=3):
    """Batches of nnU-Net's own loader."""
    trainer = project.trainer(nnUNetTrainer, results="recorded")
    trainer.initialize()
    loader, _ = trainer.get_dataloaders()
    return [next(loader) for _ in range(n)]


@pytest.mark.parametrize("kind", small_project.LABELS)
@pytest.mark.parametrize("base", ["MEEP_KL", "DiceMEEP_H", "CECP", "FocalMEEP_KL", "Focal", "CE"])
def test_labels_regions_and_the_ignore_label(balls, kind, base):
    trainer = balls(kind).trainer(f"nnUNetTrainer{base}_1epochs_2iters")
    trainer.run_training()
    assert_trained(trainer)


RIVALS = ("MbLS", "NACL", "DSCpp", "DicemL1ACE", "mL1ACEsoft", "DSCppMEEP_H")


@pytest.mark.parametrize(
    ("base", "kind", "configuration"),
    [
        *((base, "labels+ignore", "2d") for base in (*RIVALS, "LS", "CESVLS")),
        *((base, "regions+ignore", "3d_fullres") for base in RIVALS[:4]),
    ],
)
def test_rivals_of_meep(balls, base, kind, configuration):
    trainer = balls(kind).trainer(f"nnUNetTrainer{base}_1epochs_1iters", configuration)
    trainer.run_training()
    assert_trained(trainer)


@pytest.mark.parametrize("term", ["LS", "SVLS"])
def test_a_term_that_has_no_meaning_for_regions_is_refused_before_anything_is_written(balls, term):
    project = balls("regions")
    before = sorted(project.folder.rglob("*"))
    with pytest.raises(SystemExit) as error:
        project.trainer(f"nnUNetTrainerCE{term}")
    message = str(error.value)
    assert f"nnUNetTrainerCE{term}: {term} is not for regions: " in message
    assert "MbLS, NACL" in message
    assert "\n" not in message
    assert sorted(project.folder.rglob("*")) == before
    project.trainer("nnUNetTrainerLS_lambda0")  # is plain Dice + CE


@pytest.mark.parametrize("configuration", ["2d", "3d_lowres", "resenc"])
@pytest.mark.parametrize("kind", ["labels", "regions+ignore"])
def test_configurations_and_residual_encoder_plans(balls, configuration, kind):
    trainer = balls(kind).trainer("nnUNetTrainerMEEP_KL_1epochs_2iters", configuration)
    trainer.run_training()
    assert_trained(trainer)
    assert ("ResidualEncoderUNet" in str(type(trainer.network))) == (configuration == "resenc")


@pytest.mark.slow
def test_a_cascade_on_all_cases_with_validation_in_between(balls):
    name = "nnUNetTrainerMEEP_KL_1epochs_2iters"
    project = balls("labels")
    # In a thread: a process of its own loads nnU-Net once more.
    threads = SimpleNamespace(Pool=ThreadPool)
    project.patch.setattr(multiprocessing, "get_context", lambda _: threads)
    low = project.trainer(name, "3d_lowres", fold="all")
    low.run_training()
    assert_trained(low)
    low.perform_actual_validation(save_probabilities=True)
    validation = Path(low.output_folder) / "validation"
    assert len(list(validation.glob("*.npz"))) == small_project.N_CASES  # it trained on them all
    full = project.trainer(name, "3d_cascade_fullres", fold="all")
    full.run_training()
    assert_trained(full)
    assert full.num_input_channels == 3  # the image and two labels of the stage before


@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_the_parts_of_several_resolutions_add_up_to_the_loss(balls, kind):
    project = balls(kind)
    project.plans["configurations"]["3d_fullres"] = small_project.configuration(
        3, [16, 16, 16], n_stages=4
    )
    trainer = project.trainer("nnUNetTrainerMEEP_KL_1epochs_2iters")
    trainer.run_training()
    assert [bool(weight) for weight in trainer.loss.weight_factors] == [True, True, False]
    assert_trained(trainer)  # the parts, too


def test_without_deep_supervision(balls):
    class Trainer(MEEPMixin, nnUNetTrainerNoDeepSupervision):
        experiment = parse("nnUNetTrainerMEEP_KL_1epochs_2iters")

    trainer = balls("regions").trainer(Trainer)
    trainer.run_training()
    assert not isinstance(trainer.loss, DeepSupervisionWrapper)
    assert_trained(trainer)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("base", ["MEEP_KL", "mL1ACE"])
def test_with_torch_compile(balls, monkeypatch, base):
    name = f"nnUNetTrainer{base}_1epochs_2iters_seed1"
    project = balls("labels+ignore")
    compiled = project.trainer(name)
    monkeypatch.setattr(compiled, "_do_i_compile", lambda: True)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    compiled.run_training()
    assert_trained(compiled)
    eager = project.trainer(name, results="eager")
    eager.run_training()
    for key, value in load(eager, "checkpoint_final.pth")["network_weights"].items():
        other = load(compiled, "checkpoint_final.pth")["network_weights"][key]
        torch.testing.assert_close(other, value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:FutureWarning")  # timm's own
def test_with_a_transformer(balls):
    from nnunetv2.training.nnUNetTrainer.primus.primus_trainers import nnUNet_Primus_S_Trainer

    class Primus(MEEPMixin, nnUNet_Primus_S_Trainer):
        experiment = parse("nnUNetTrainerMEEP_KL_1epochs_1iters")

    trainer = balls().trainer(Primus)
    trainer.run_training()
    assert_trained(trainer)
    assert type(trainer.optimizer) is torch.optim.AdamW


class DA5(MEEPMixin, nnUNetTrainerDA5):
    experiment = parse("nnUNetTrainerMEEP_KL_lambda0p2_1epochs_2iters")


class NoMirroring(MEEPMixin, nnUNetTrainerNoMirroring):
    experiment = parse("nnUNetTrainerDiceMEEP_H_1epochs_2iters")


class Topk(MEEPMixin, nnUNetTrainerTopk10Loss):
    experiment = parse("nnUNetTrainerMEEP_KL_1epochs_2iters")


class Warmup(MEEPMixin, nnUNetTrainer_warmup):
    experiment = parse("nnUNetTrainerMEEP_KL_1epochs_2iters")


@pytest.mark.filterwarnings(TOPKS_OWN_WARNING)
@pytest.mark.parametrize("of", [DA5, NoMirroring, Topk, Warmup])
def test_any_trainer_takes_the_mixin(balls, of):
    trainer = balls().trainer(of)
    trainer.run_training()
    assert_trained(trainer)
    assert Path(trainer.output_folder).parent.name == f"{of.__name__}__nnUNetPlans__3d_fullres"


def test_the_mixin_keeps_what_the_other_trainer_changes(balls):
    project = balls()
    assert project.trainer(NoMirroring).run_training() is None
    checkpoint = load(project.trainer(NoMirroring), "checkpoint_final.pth")
    assert checkpoint["inference_allowed_mirroring_axes"] is None

    class Long(MEEPMixin, nnUNetTrainerDA5):
        experiment = parse("nnUNetTrainerMEEP_KL")

    trainer = project.trainer(Long)
    plain = project.trainer(nnUNetTrainerDA5, results="plain")
    for key in ("num_epochs", "num_iterations_per_epoch", "initial_lr", "save_every"):
        assert getattr(trainer, key) == getattr(plain, key)
    assert Long.get_training_transforms is nnUNetTrainerDA5.get_training_transforms


@pytest.mark.filterwarnings(TOPKS_OWN_WARNING)
def test_a_loss_that_is_not_dice_and_ce_is_kept_or_replaced_but_not_cut(balls):
    class Cut(MEEPMixin, nnUNetTrainerTopk10Loss):
        experiment = parse("nnUNetTrainerDiceMEEP_KL")

    class Replaced(MEEPMixin, nnUNetTrainerTopk10Loss):
        experiment = parse("nnUNetTrainerFocal_gamma3")

    project = balls()
    with pytest.raises(TypeError, match="Cut: Dice needs a trainer with nnU-Net's Dice"):
        project.trainer(Cut).initialize()
    trainer = project.trainer(Replaced)
    trainer.initialize()
    assert trainer.loss.loss.gamma == 3
    assert "TopKLoss" in str(project.trainer(Topk)._build_loss())


def test_a_warm_up_has_the_schedule_of_nnunets(balls):
    project = balls()
    rates = []
    for of in (Warmup, nnUNetTrainer_warmup):
        trainer = project.trainer(of, results=of.__name__)
        trainer.num_epochs, trainer.warmup_duration_whole_net = 4, 2
        trainer.num_iterations_per_epoch = trainer.num_val_iterations_per_epoch = 1
        trainer.logger.local_logger.plot_progress_png = lambda *_: None
        trainer.run_training()
        rates.append(load(trainer, "checkpoint_final.pth")["logging"]["lrs"])
    assert rates[0] == rates[1]
    assert len(set(rates[0])) == 3  # it ends at the rate from which the rest begins


@pytest.mark.parametrize("wrong", [None, "nnUNetTrainerMEEP_KL", parse("nnUNetTrainer")])
def test_a_mixin_without_an_experiment_is_refused(wrong):
    with pytest.raises(TypeError, match=r"experiment: expected what parse\(\) returns"):
        type("Mine", (MEEPMixin,), {"experiment": wrong})


def test_resuming_is_as_if_there_had_been_no_interruption(balls):
    name = "nnUNetTrainerMEEP_KL_3epochs_2iters_seed1"
    project = balls()
    whole = project.trainer(name, results="whole")
    whole.run_training()

    interrupted = project.trainer(name)
    interrupted.num_epochs = 1  # of the schedule, which is made in initialize(), three
    interrupted.initialize()
    interrupted.lr_scheduler.max_steps = 3
    interrupted.run_training()
    resumed = project.trainer(name, resume=True)
    resumed.load_checkpoint(str(Path(interrupted.output_folder) / "checkpoint_final.pth"))
    assert resumed.current_epoch == 1
    resumed.run_training()

    assert_trained(resumed, n_epochs=3)
    assert_same(weights(resumed), weights(whole))
    for key in ("train_losses", "segmentation_loss", "misclassified", "mean_fg_ece"):
        one, other = (load(t, "checkpoint_final.pth")["logging"][key] for t in (resumed, whole))
        assert one == other, key


def test_a_checkpoint_without_our_log_is_taken_up_with_gaps(balls, monkeypatch, no_picture):
    picture = no_picture  # what draws it, for this test does
    project = balls()
    old = project.trainer(nnUNetTrainer)
    old.num_epochs, old.num_iterations_per_epoch, old.num_val_iterations_per_epoch = 2, 1, 1
    old.logger.local_logger.plot_progress_png = lambda *_: None
    old.run_training()
    # As of a trainer of the user's whose class has got the mixin since, and kept its name.
    name, path = "nnUNetTrainerMEEP_KL_3epochs_2iters", project.folder / "checkpoint_final.pth"
    torch.save({**load(old, "checkpoint_final.pth"), "trainer_name": name}, path)

    monkeypatch.setattr(CalibrationLogger, "plot_progress_png", picture)
    resumed = project.trainer(name, resume=True)
    resumed.load_checkpoint(str(path))
    resumed.run_training()
    log = load(resumed, "checkpoint_final.pth")["logging"]
    for key in KEYS:
        assert len(log[key]) == 3, key
        assert np.isnan(log[key][:2]).all(), key
        assert np.isfinite(log[key][2]).all(), key
    assert (Path(resumed.output_folder) / "progress.png").stat().st_size > 10_000


@pytest.mark.parametrize("kind", ["labels", "regions+ignore"])
def test_weights_of_a_plain_model_are_taken_over(balls, kind):
    project = balls(kind)
    plain = project.trainer(nnUNetTrainer)
    plain.initialize()
    plain.save_checkpoint(str(project.folder / "plain.pth"))
    trainer = project.trainer("nnUNetTrainerMEEP_KL_1epochs_1iters")
    trainer.initialize()
    before = weights(trainer)
    load_pretrained_weights(trainer.network, str(project.folder / "plain.pth"))
    for key, value in weights(trainer).items():
        assert torch.equal(value, before[key] if ".seg_layers." in key else weights(plain)[key])
    trainer.run_training()
    assert_trained(trainer)


@pytest.mark.parametrize("kind", small_project.LABELS)
@pytest.mark.parametrize("name", ["MEEP_KL_lambda0", "MEEP_H_lambda0", "CP_lambda0", "DiceCE"])
def test_lambda_0_is_plain_nnunet_to_the_last_bit(balls, kind, name):
    project = balls(kind)
    ours, plain = project.trainer(f"nnUNetTrainer{name}"), project.trainer(nnUNetTrainer)
    batches = recorded(project)
    losses = []
    for trainer in (ours, plain):
        torch.manual_seed(0)
        trainer.initialize()
        trainer.network.train()
        losses.append([trainer.train_step(copy.deepcopy(batch))["loss"] for batch in batches])
    assert losses[0] == losses[1]
    assert_same(weights(ours), weights(plain))


def test_a_term_changes_the_weights(balls):
    project = balls()
    ours, plain = project.trainer("nnUNetTrainerMEEP_KL"), project.trainer(nnUNetTrainer)
    batches = recorded(project, 1)
    for trainer in (ours, plain):
        torch.manual_seed(0)
        trainer.initialize()
        trainer.network.train()
        trainer.train_step(copy.deepcopy(batches[0]))
    assert any(not torch.equal(weights(ours)[key], weights(plain)[key]) for key in weights(ours))


@pytest.mark.parametrize(
    ("second", "same_start", "same_end"),
    [
        ("nnUNetTrainerMEEP_KL_1epochs_2iters_seed1", True, True),
        ("nnUNetTrainerDice_1epochs_2iters_seed1", True, False),
        ("nnUNetTrainerMEEP_KL_1epochs_2iters_seed2", False, False),
        ("nnUNetTrainerMEEP_KL_1epochs_2iters", False, False),
    ],
)
def test_a_seed_fixes_the_initialisation_and_without_workers_the_training(
    balls, second, same_start, same_end
):
    project = balls()
    starts, ends = [], []
    first = "nnUNetTrainerMEEP_KL_1epochs_2iters_seed1"
    for name, results in ((first, "first"), (second, "second")):
        trainer = project.trainer(name, results=results)
        trainer.initialize()
        starts.append(weights(trainer))
        trainer.run_training()
        ends.append(weights(trainer))
    for (one, other), same in ((starts, same_start), (ends, same_end)):
        assert all(torch.equal(one[key], other[key]) for key in one) == same


def test_ranks_start_from_the_same_weights_and_draw_different_numbers(balls):
    trainer = balls().trainer("nnUNetTrainerMEEP_KL_seed1")
    numbers = []
    for rank in (0, 1):
        trainer.local_rank = rank
        for initialised in (False, True):
            trainer.was_initialized = initialised
            trainer._seed(0)
            drawn = np.random.random(), torch.rand(1).item(), random.random()  # noqa: NPY002
            numbers.append(drawn)
    assert numbers[0] == numbers[1] == numbers[2]
    for of_rank_1, of_rank_0 in zip(numbers[3], numbers[0], strict=True):
        assert of_rank_1 != of_rank_0


class OfRandomNumbers(nnUNetTrainer):
    """Keeps what its random numbers started from: its weights', then each epoch's."""

    def configure_optimizers(self):
        self.started_from = [torch.initial_seed()]
        return super().configure_optimizers()

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        self.started_from.append(torch.initial_seed())


def test_the_weights_and_each_epoch_have_random_numbers_of_their_own(balls):
    started_from = []
    project = balls()
    for seed in (0, 1, 0):
        name = f"nnUNetTrainerMEEP_KL_3epochs_1iters_seed{seed}"
        mixed = type("Mixed", (MEEPMixin, OfRandomNumbers), {"experiment": parse(name)})
        trainer = project.trainer(mixed)
        trainer.run_training()
        started_from.append(trainer.started_from)
    assert len({*started_from[0], *started_from[1]}) == 8
    assert started_from[2] == started_from[0]


def test_background_loaders_of_two_ranks_start_from_different_numbers(balls, monkeypatch):
    monkeypatch.setattr(nnUNetTrainer, "get_dataloaders", lambda self: torch.rand(1).item())
    project = balls()
    numbers = []
    for rank in (0, 1, 1):
        trainer = project.trainer("nnUNetTrainerMEEP_KL_seed1")
        trainer.initialize()  # as on every rank
        trainer.local_rank = rank
        numbers.append(trainer.get_dataloaders())
    assert numbers[0] != numbers[1] == numbers[2]


def test_the_papers_optimisation(balls):
    trainer = balls().trainer("nnUNetTrainerCEMEEP_KL_paper")
    wandb = Recorder()
    trainer.logger.loggers.append(wandb)
    trainer.initialize()
    assert wandb.config["hparas"]["initial_lr"] == 1e-4
    assert wandb.config["hparas"]["weight_decay"] == 0
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch) == (200, 40)
    assert trainer.num_val_iterations_per_epoch == 8
    assert type(trainer.optimizer) is torch.optim.Adam
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0
    rates = []
    for epoch in range(200):
        trainer.lr_scheduler.step(epoch)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert trainer.lr_scheduler.get_last_lr() == [rates[-1]]
    # torch's own, stepped once per epoch
    reference = torch.optim.Adam([torch.zeros(1)], lr=1e-4)
    schedule = torch.optim.lr_scheduler.StepLR(reference, 10, 0.85)
    expected = []
    for _ in range(200):
        expected.append(schedule.get_last_lr()[0])
        reference.step()
        schedule.step()
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert len(set(rates)) == 20


def test_the_papers_rates_begin_at_once_go_on_by_themselves_and_are_those_of_all_groups():
    groups = [{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)]}]
    schedule = StepDecay(torch.optim.Adam(groups, lr=1e-4), 1e-4, 0.85, every=2)
    rates = [schedule.get_last_lr()]
    for _ in range(4):
        schedule.step()
        rates.append(schedule.get_last_lr())
        assert rates[-1] == [group["lr"] for group in schedule.optimizer.param_groups]
    assert rates == [[1e-4 * 0.85**n] * 2 for n in (0, 0, 1, 1, 2)]


def test_the_papers_optimiser_stays_the_same_where_a_warm_up_ends(balls):
    class Trainer(MEEPMixin, nnUNetTrainer_warmup):
        experiment = parse("nnUNetTrainerMEEP_KL_3epochs_2iters_paper")

        def __init__(self, plans, configuration, fold, dataset_json, device):
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.warmup_duration_whole_net = 1

    trainer = balls().trainer(Trainer)
    trainer.run_training()
    assert type(trainer.optimizer) is torch.optim.Adam
    steps = [state["step"] for state in trainer.optimizer.state_dict()["state"].values()]
    assert set(map(int, steps)) == {6}  # those of all three epochs


def test_options_replace_the_papers_length_alone(balls):
    trainer = balls().trainer("nnUNetTrainerCE_1epochs_2iters_paper")
    trainer.run_training()
    assert_trained(trainer)
    assert "learning rate, unrounded: 0.0001 \n" in Path(trainer.log_file).read_text()
    assert type(trainer.optimizer) is torch.optim.Adam


def test_foreground_is_sampled_with_a_probability_in_training_only(balls):
    trainer = balls().trainer("nnUNetTrainerMEEP_KL_seed1_fg0p9")
    trainer.initialize()
    np.random.seed(0)  # noqa: NPY002
    train, val = (augmenter.data_loader for augmenter in trainer.get_dataloaders())
    forced = np.array([[train.get_do_oversample(i) for i in range(2)] for _ in range(2000)])
    np.testing.assert_allclose(forced.mean(0), 0.9, atol=0.03)  # 4.5 standard deviations
    assert [val.get_do_oversample(i) for i in range(2)] == [False, True]  # nnU-Net's own rule


def test_a_probability_of_0_forces_no_patch(balls):
    trainer = balls().trainer("nnUNetTrainerMEEP_KL_fg0")
    trainer.initialize()
    train, _ = trainer.get_dataloaders()
    assert not any(train.data_loader.get_do_oversample(i) for i in range(2) for _ in range(100))


# Where batchgenerators' workers end, the thread that reads from them may find their queue closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("option", ["", "_fg0p9"])
def test_the_sampling_reaches_background_workers(balls, monkeypatch, option):
    drawn = multiprocessing.Value("i", 0)

    def draw(self, index):
        with drawn.get_lock():
            drawn.value += 1
        return True

    monkeypatch.setattr(nnUNetDataLoader, "_probabilistic_oversampling", draw)
    project = balls()
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    trainer = project.trainer(f"nnUNetTrainerDiceCE{option}")
    trainer.initialize()
    train, val = trainer.get_dataloaders()
    try:
        for _ in range(4):
            next(val)
            next(train)
    finally:
        train._finish()
        val._finish()
    assert drawn.value >= 8 if option else drawn.value == 0


@pytest.mark.parametrize("own", [iter([]), SingleThreadedAugmenter(iter([]), None)])
def test_a_loader_of_ones_own_cannot_take_the_sampling(balls, monkeypatch, own):
    monkeypatch.setattr(nnUNetTrainer, "get_dataloaders", lambda self: (own, own))
    trainer = balls().trainer("nnUNetTrainerDice_fg0p9")
    with pytest.raises(TypeError, match=r"_fg: expected nnU-Net.s own data loader, got (li|Si)"):
        trainer.get_dataloaders()


@pytest.mark.parametrize("name", ["MEEP_KL", "DiceCE", "MEEP_KL_lambda0"])
def test_a_loss_that_is_not_finite_stops_the_training_and_says_where(balls, name):
    trainer = balls().trainer(f"nnUNetTrainer{name}_3epochs_4iters")
    trainer.initialize()
    loaders = trainer.get_dataloaders()
    trainer.get_dataloaders = lambda: (poisoned(loaders[0], at=6), loaders[1])
    with pytest.raises(FloatingPointError) as error:
        trainer.run_training()
    message = str(error.value)
    assert "the loss is nan in epoch 1, iteration 2: segmentation loss nan" in message
    assert ("MEEP_KL" in message) == (name == "MEEP_KL")
    assert "not finite (cases ball_" in message
    assert "\n" not in message
    log = Path(trainer.log_file).read_text()
    assert message in log
    # What is on disk is from before.
    kept = load(trainer, "checkpoint_latest.pth")
    assert kept["current_epoch"] == 1
    assert all(torch.isfinite(value).all() for value in kept["network_weights"].values())


def poisoned(loader, at):
    for i, batch in enumerate(loader):
        if i == at:
            batch["data"][0, 0, 0] = np.inf
        yield batch


class Recorder:
    """In the place of wandb's logger."""

    def __init__(self):
        self.logged = {}

    def log(self, key, value, step):
        self.logged.setdefault(key, {})[step] = value

    def update_config(self, config):
        self.config = config


def test_wandb_gets_what_the_log_gets(balls):
    trainer = balls().trainer("nnUNetTrainerMEEP_KL_2epochs_1iters")
    recorder = Recorder()
    trainer.logger.loggers.append(recorder)
    trainer.run_training()
    log = load(trainer, "checkpoint_final.pth")["logging"]
    for key in KEYS:
        for epoch in (0, 1):
            value = log[key][epoch]
            if isinstance(value, list):
                assert [recorder.logged[f"{key}/class_{c}"][epoch] for c in (1, 2)] == value
            else:
                assert recorder.logged[key][epoch] == value
    of_the_last_epoch = trainer.monitor.training_values() | trainer.monitor.validation_values()
    assert of_the_last_epoch == {key: log[key][1] for key in of_the_last_epoch}


@pytest.mark.parametrize(("name", "sign"), [("MEEP_KL", "+"), ("MEEP_H", "-")])
def test_the_training_log_says_each_epochs_own_values(balls, name, sign):
    trainer = balls().trainer(f"nnUNetTrainer{name}_2epochs_1iters")
    trainer.run_training()
    text = Path(trainer.log_file).read_text()
    log = load(trainer, "checkpoint_final.pth")["logging"]
    for epoch in (0, 1):
        of = {key: log[key][epoch] for key in KEYS}
        for line in (
            f"segmentation_loss {of['segmentation_loss']:.4f} {sign} 0.3 * {name} "
            f"{of['term_value']:.4f}",
            f"misclassified {100 * of['misclassified']:.3f}% of the voxels, with entropy "
            f"{of['misclassified_entropy']:.3f} of log K",
            f"Pseudo ECE {[round(x, 5) for x in of['ece_per_class_or_region']]}",
            f"Pseudo Brier {[round(x, 5) for x in of['brier_per_class_or_region']]}",
            f"Unexpected errors {of['unexpected_errors']:.3f}",
        ):
            assert f": {line} \n" in text, line  # behind the time


@pytest.mark.parametrize("name", ["DiceCE", "MEEP_H_lambda0"])
def test_the_training_log_says_no_term_where_there_is_none(balls, name):
    trainer = balls().trainer(f"nnUNetTrainer{name}_1epochs_1iters")
    trainer.run_training()
    loss = load(trainer, "checkpoint_final.pth")["logging"]["segmentation_loss"][0]
    assert f": segmentation_loss {loss:.4f} \n" in Path(trainer.log_file).read_text()


def test_the_training_log_says_it_beside_nnunets_lines(balls):
    trainer = balls().trainer("nnUNetTrainerMEEP_KL_lambda0p2_1epochs_2iters")
    trainer.run_training()
    text = Path(trainer.log_file).read_text()
    for line in (
        f"nnunet-meep {__version__}: nnUNetTrainerMEEP_KL_lambda0p2_1epochs_2iters",
        "  term: MEEP_KL with lambda 0.2: ",
        "  optimiser: nnU-Net's own",
        "  loss: Dice, cross-entropy and term in closed form (torch)",
        r" + 0.2 * MEEP_KL ",
        "misclassified ",
        "of log K",
        "Pseudo ECE [",
        "Pseudo Brier [",
        "Unexpected errors ",
        "train_loss",
        "Pseudo dice",
    ):
        assert line in text
    assert "unrounded: 0.01" not in text  # only the paper's rates need more digits


def test_the_training_log_of_another_trainer_does_not_explain_what_that_one_changes(balls):
    trainer = balls().trainer(DA5)
    trainer.run_training()
    text = Path(trainer.log_file).read_text()
    assert f"nnunet-meep {__version__}: nnUNetTrainerMEEP_KL_lambda0p2_1epochs_2iters" in text
    assert "optimiser: nnU-Net's own" not in text


def test_where_all_validation_patches_are_forced_the_log_says_so(balls):
    class Forced(MEEPMixin, nnUNetTrainer):
        experiment = parse("nnUNetTrainerMEEP_KL_1epochs_1iters")

        def __init__(self, plans, configuration, fold, dataset_json, device):
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.oversample_foreground_percent = 1.0

    trainer = balls().trainer(Forced)
    trainer.run_training()
    text = Path(trainer.log_file).read_text()
    assert "No pseudo ECE, Brier and unexpected errors: nnU-Net centres all validation" in text
    assert "Pseudo ECE" not in text
    log = load(trainer, "checkpoint_final.pth")["logging"]
    assert np.isnan(log["unexpected_errors"]).all()
    assert np.isfinite(log["misclassified"]).all()


class Probabilistic(MEEPMixin, nnUNetTrainer_probabilisticOversampling):
    experiment = parse("nnUNetTrainerMEEP_KL_1epochs_1iters")


class OfOnesOwn(MEEPMixin, nnUNetTrainer):
    """Its batches come from no loader of nnU-Net's, though it looks like one from outside."""

    experiment = parse("nnUNetTrainerMEEP_KL_1epochs_1iters")

    def get_dataloaders(self):
        return tuple(
            SingleThreadedAugmenter(itertools.repeat(next(loader)), None)
            for loader in super().get_dataloaders()
        )


@pytest.mark.parametrize("of", [Probabilistic, OfOnesOwn])
def test_where_it_is_unknown_which_patches_are_forced_none_is_counted(balls, of):
    trainer = balls().trainer(of)
    trainer.run_training()
    assert np.isnan(load(trainer, "checkpoint_final.pth")["logging"]["mean_fg_ece"]).all()
    assert "or any at random, so they say" in Path(trainer.log_file).read_text()


def test_a_network_without_errors_has_a_calibration():
    experiment = parse("nnUNetTrainerMEEP_KL")
    values = {key: [0.25] if "per_class" in key else 0.25 for key in KEYS}
    without = {**values, "unexpected_errors": float("nan")}
    lines = epoch_lines(experiment, without, has_free_patches=True)
    assert lines[-3:] == ["Pseudo ECE [0.25]", "Pseudo Brier [0.25]", "Unexpected errors nan"]
    nearly = {**values, "unexpected_errors": -1e-4}
    lines = epoch_lines(experiment, nearly, has_free_patches=True)
    assert lines[-1] == "Unexpected errors 0.000"


class OfNaN:
    """Batches of a loader, without what is in the images."""

    def __init__(self, augmenter):
        self.data_loader = augmenter.data_loader

    def __next__(self):
        batch = next(self.data_loader)
        return {**batch, "data": torch.full_like(batch["data"], np.nan)}


def test_where_validation_gives_no_probabilities_the_log_does_not_blame_the_patches(balls):
    trainer = balls().trainer("nnUNetTrainerMEEP_KL_1epochs_1iters")
    trainer.initialize()
    train, val = trainer.get_dataloaders()
    trainer.get_dataloaders = lambda: (train, OfNaN(val))
    trainer.run_training()
    text = Path(trainer.log_file).read_text()
    assert "unexpected errors: no voxel of the validation patches has a label and a prob" in text


def test_a_training_batch_is_counted_after_the_step_that_frees_memory(balls, monkeypatch):
    trainer = balls().trainer("nnUNetTrainerMEEP_KL_1epochs_2iters")
    trainer.initialize()
    done = []

    def telling(of, name):
        do = getattr(of, name)

        def told(*arguments):
            graph = any(getattr(argument, "requires_grad", False) for argument in arguments)
            done.append(f"{name} with the graph" if graph else name)
            return do(*arguments)

        monkeypatch.setattr(of, name, told)

    telling(trainer.optimizer, "step")
    telling(trainer.monitor, "add_training")
    trainer.run_training()
    assert done == ["step", "add_training"] * 2


@pytest.mark.parametrize("kind", ["labels+ignore", "regions"])
def test_what_is_logged_comes_from_the_full_resolution_before_the_step(balls, kind):
    trainer = balls(kind).trainer("nnUNetTrainerMEEP_KL")
    trainer.initialize()
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    trainer.on_epoch_start()
    expected = TrainingMonitor(
        2, ignore_label=trainer.label_manager.ignore_label, regions="regions" in kind, device=CPU
    )
    trainer.on_train_epoch_start()
    for _ in range(2):
        batch = next(trainer.dataloader_train)
        with torch.no_grad():
            logits = trainer.network(batch["data"])[0]
        result = trainer.train_step(copy.deepcopy(batch))
        nothing = torch.tensor(float("nan"))
        expected.add_training(logits, batch["target"][0], LossParts(nothing, nothing))
        assert np.isfinite(result["loss"])
    values = trainer.monitor.training_values()
    for key in ("misclassified", "misclassified_entropy"):
        assert values[key] == pytest.approx(expected.training_values()[key], rel=1e-5)

    trainer.on_validation_epoch_start()
    with torch.no_grad():
        for _ in range(2):
            batch = next(trainer.dataloader_val)
            logits = trainer.network(batch["data"])[0]
            trainer.validation_step(copy.deepcopy(batch))
            # Of a batch of two nnU-Net forces the second onto foreground.
            expected.add_validation(logits[:1], batch["target"][0][:1])
    assert trainer.monitor.validation_values() == expected.validation_values()
