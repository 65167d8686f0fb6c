"""What nnU-Net can do, done by trainers of ours: each for a few iterations on small volumes."""

from __future__ import annotations

import copy
import functools
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import small_project
import torch
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
from small_project import configuration

from nnunet_meep import trainers
from nnunet_meep.trainers import MEEPMixin, parse
from nnunet_meep.trainers.progress import KEYS, CalibrationLogger

DATASET = "Dataset901_Balls"
TOPKS_OWN_WARNING = "ignore:size_average and reduce args will be deprecated:UserWarning"
CONFIGURATIONS = {
    "2d": configuration(2, [16, 16]),
    "3d_fullres": configuration(3, [16, 16, 16]),
    "3d_lowres": configuration(
        3,
        [8, 8, 8],
        data_identifier="nnUNetPlans_3d_lowres",
        spacing=[2.0] * 3,
        next_stage="3d_cascade_fullres",
    ),
    "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    "resenc": configuration(3, [16, 16, 16], residual=True),
}


class Project:
    """A preprocessed data set; ``project.trainer(class or name)`` as nnUNetv2_train makes it."""

    def __init__(self, folder: Path, dataset: str, plans: dict, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.dataset, self.plans, self.patch = folder, dataset, plans, monkeypatch

    def trainer(self, of, configuration="3d_fullres", fold=0, resume=False, results="results"):
        self.patch.setenv("nnUNet_results", str(self.folder / results))
        if isinstance(of, str):
            of = getattr(trainers, of)
        plans = {**copy.deepcopy(self.plans), "continue_training": resume}
        preprocessed = self.folder / "preprocessed" / self.dataset
        dataset = json.loads((preprocessed / "dataset.json").read_text())
        return of(plans, configuration, fold, dataset, torch.device("cpu"))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """``prepared(kind)``: the balls in nnU-Net's preprocessed format, made once."""

    @functools.cache
    def prepare(kind):
        folder = tmp_path_factory.mktemp(kind.replace("+", "_"))
        small_project.write_balls(folder / "raw" / DATASET, small_project.LABELS[kind])
        plans = small_project.plans(DATASET, "SimpleITKIO", CONFIGURATIONS)
        cases = [f"ball_{i}" for i in range(small_project.N_CASES)]
        small_project.preprocess(folder, DATASET, plans, cases)
        return folder, plans

    return prepare


@pytest.fixture
def project(prepared, tmp_path, monkeypatch):
    """``project(kind)``: a project with results of its own."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    # Most tests do without the picture, which takes longer than the training.
    monkeypatch.setattr(CalibrationLogger, "plot_progress_png", lambda *_: None)

    def open_project(kind="labels"):
        folder, plans = prepared(kind)
        for name in ("raw", "preprocessed"):
            small_project.link(folder / name, tmp_path / kind / name)
        monkeypatch.setenv("nnUNet_raw", str(tmp_path / kind / "raw"))
        monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / kind / "preprocessed"))
        return Project(tmp_path / kind, DATASET, plans, monkeypatch)

    return open_project


def assert_trained(trainer, n_epochs=1):
    """Finite losses, the log complete, a checkpoint that names the trainer."""
    checkpoint = load(trainer, "checkpoint_final.pth")
    assert checkpoint["trainer_name"] == type(trainer).__name__
    assert checkpoint["current_epoch"] == n_epochs
    log = checkpoint["logging"]
    assert set(KEYS) < set(log)
    assert {len(values) for values in log.values()} == {n_epochs}
    assert np.isfinite([log["train_losses"], log["val_losses"]]).all()
    regularised = trainer.experiment.term and trainer.experiment.weight
    for key in KEYS:
        if key != "term_value" or regularised:
            assert np.isfinite(np.asarray(log[key])).all(), key
    if regularised:
        sign = 1 if trainer.experiment.term == "MEEP_KL" else -1
        whole = np.add(
            log["segmentation_loss"],
            sign * trainer.experiment.weight * np.asarray(log["term_value"]),
        )
        np.testing.assert_allclose(whole, log["train_losses"], rtol=1e-5, atol=1e-6)
    else:
        assert np.isnan(log["term_value"]).all()
        np.testing.assert_allclose(log["segmentation_loss"], log["train_losses"], rtol=1e-5)


def load(trainer, name):
    return torch.load(Path(trainer.output_folder) / name, weights_only=False)


def weights(trainer):
    return {key: value.clone() for key, value in trainer.network.state_dict().items()}


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
def test_labels_regions_and_the_ignore_label(project, kind, base):
    trainer = project(kind).trainer(f"nnUNetTrainer{base}_1epochs_2iters")
    trainer.run_training()
    assert_trained(trainer)


@pytest.mark.parametrize("configuration", ["2d", "3d_lowres", "resenc"])
@pytest.mark.parametrize("kind", ["labels", "regions+ignore"])
def test_configurations_and_residual_encoder_plans(project, configuration, kind):
    trainer = project(kind).trainer("nnUNetTrainerMEEP_KL_1epochs_2iters", configuration)
    trainer.run_training()
    assert_trained(trainer)
    assert ("ResidualEncoderUNet" in str(type(trainer.network))) == (configuration == "resenc")


@pytest.mark.slow
def test_a_cascade_on_all_cases_with_validation_in_between(project):
    name = "nnUNetTrainerMEEP_KL_1epochs_2iters"
    project = project("labels")
    project.patch.setenv("nnUNet_def_n_proc", "1")
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


def test_without_deep_supervision(project):
    class Trainer(MEEPMixin, nnUNetTrainerNoDeepSupervision):
        experiment = parse("nnUNetTrainerMEEP_KL_1epochs_2iters")

    trainer = project("regions").trainer(Trainer)
    trainer.run_training()
    assert not isinstance(trainer.loss, DeepSupervisionWrapper)
    assert_trained(trainer)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_with_torch_compile(project, monkeypatch):
    name = "nnUNetTrainerMEEP_KL_1epochs_2iters_seed1"
    project = project("labels+ignore")
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
def test_any_trainer_takes_the_mixin(project, of):
    trainer = project().trainer(of)
    trainer.run_training()
    assert_trained(trainer)
    assert Path(trainer.output_folder).parent.name == f"{of.__name__}__nnUNetPlans__3d_fullres"


def test_the_mixin_keeps_what_the_other_trainer_changes(project):
    project = project()
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
def test_a_loss_that_is_not_dice_and_ce_is_kept_or_replaced_but_not_cut(project):
    class Cut(MEEPMixin, nnUNetTrainerTopk10Loss):
        experiment = parse("nnUNetTrainerDiceMEEP_KL")

    class Replaced(MEEPMixin, nnUNetTrainerTopk10Loss):
        experiment = parse("nnUNetTrainerFocal_gamma3")

    project = project()
    with pytest.raises(TypeError, match="Cut: Dice needs a trainer with nnU-Net's Dice"):
        project.trainer(Cut).initialize()
    trainer = project.trainer(Replaced)
    trainer.initialize()
    assert trainer.loss.loss.gamma == 3
    assert "TopKLoss" in str(project.trainer(Topk)._build_loss())


@pytest.mark.parametrize("wrong", [None, "nnUNetTrainerMEEP_KL", parse("nnUNetTrainer")])
def test_a_mixin_without_an_experiment_is_refused(wrong):
    with pytest.raises(TypeError, match=r"experiment: expected what parse\(\) returns"):
        type("Mine", (MEEPMixin,), {"experiment": wrong})


def test_resuming_is_as_if_there_had_been_no_interruption(project):
    name = "nnUNetTrainerMEEP_KL_3epochs_2iters_seed1"
    project = project()
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


def test_a_checkpoint_without_our_log_is_taken_up_with_gaps(project, monkeypatch):
    project = project()
    old = project.trainer(nnUNetTrainer)
    old.num_epochs, old.num_iterations_per_epoch, old.num_val_iterations_per_epoch = 2, 1, 1
    old.logger.local_logger.plot_progress_png = lambda *_: None
    old.run_training()

    monkeypatch.undo()  # the picture, this time
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_preprocessed", str(project.folder / "preprocessed"))
    resumed = project.trainer("nnUNetTrainerMEEP_KL_3epochs_2iters", resume=True)
    resumed.load_checkpoint(str(Path(old.output_folder) / "checkpoint_final.pth"))
    resumed.run_training()
    log = load(resumed, "checkpoint_final.pth")["logging"]
    for key in KEYS:
        assert len(log[key]) == 3, key
        assert np.isnan(log[key][:2]).all(), key
        assert np.isfinite(log[key][2]).all(), key
    assert (Path(resumed.output_folder) / "progress.png").stat().st_size > 10_000


@pytest.mark.parametrize("kind", ["labels", "regions+ignore"])
def test_weights_of_a_plain_model_are_taken_over(project, kind):
    project = project(kind)
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
def test_lambda_0_is_plain_nnunet_to_the_last_bit(project, kind, name):
    project = project(kind)
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


def test_a_term_changes_the_weights(project):
    project = project()
    ours, plain = project.trainer("nnUNetTrainerMEEP_KL"), project.trainer(nnUNetTrainer)
    batches = recorded(project, 1)
    for trainer in (ours, plain):
        torch.manual_seed(0)
        trainer.initialize()
        trainer.network.train()
        trainer.train_step(copy.deepcopy(batches[0]))
    assert any(not torch.equal(weights(ours)[key], weights(plain)[key]) for key in weights(ours))


@pytest.mark.parametrize("first", ["nnUNetTrainerMEEP_KL_1epochs_2iters_seed1"])
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
    project, first, second, same_start, same_end
):
    project = project()
    starts, ends = [], []
    for name, results in ((first, "first"), (second, "second")):
        trainer = project.trainer(name, results=results)
        trainer.initialize()
        starts.append(weights(trainer))
        trainer.run_training()
        ends.append(weights(trainer))
    for (one, other), same in ((starts, same_start), (ends, same_end)):
        assert all(torch.equal(one[key], other[key]) for key in one) == same


def test_ranks_start_from_the_same_weights_and_draw_different_numbers(project):
    trainer = project().trainer("nnUNetTrainerMEEP_KL_seed1")
    numbers = []
    for rank in (0, 1):
        trainer.local_rank = rank
        for initialised in (False, True):
            trainer.was_initialized = initialised
            trainer._seed(0)
            numbers.append((np.random.random(), torch.rand(1).item()))  # noqa: NPY002
    assert numbers[0] == numbers[1] == numbers[2]
    assert numbers[3][0] != numbers[0][0]
    assert numbers[3][1] != numbers[0][1]


def test_the_papers_optimisation(project):
    trainer = project().trainer("nnUNetTrainerCEMEEP_KL_paper")
    trainer.initialize()
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


def test_options_replace_the_papers_length_alone(project):
    trainer = project().trainer("nnUNetTrainerCE_1epochs_2iters_paper")
    trainer.run_training()
    assert_trained(trainer)
    assert type(trainer.optimizer) is torch.optim.Adam


def test_foreground_is_sampled_with_a_probability_in_training_only(project):
    trainer = project().trainer("nnUNetTrainerMEEP_KL_seed1_fg0p9")
    trainer.initialize()
    np.random.seed(0)  # noqa: NPY002
    train, val = (augmenter.data_loader for augmenter in trainer.get_dataloaders())
    forced = np.array([[train.get_do_oversample(i) for i in range(2)] for _ in range(2000)])
    np.testing.assert_allclose(forced.mean(0), 0.9, atol=0.03)  # 4.5 standard deviations
    assert [val.get_do_oversample(i) for i in range(2)] == [False, True]  # nnU-Net's own rule


@pytest.mark.parametrize("option", ["", "_fg0p9"])
def test_the_sampling_reaches_background_workers(project, monkeypatch, option):
    drawn = multiprocessing.Value("i", 0)

    def draw(self, index):
        with drawn.get_lock():
            drawn.value += 1
        return True

    monkeypatch.setattr(nnUNetDataLoader, "_probabilistic_oversampling", draw)
    project = project()
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


def test_a_loader_of_ones_own_cannot_take_the_sampling(project, monkeypatch):
    monkeypatch.setattr(nnUNetTrainer, "get_dataloaders", lambda self: (iter([]), iter([])))
    trainer = project().trainer("nnUNetTrainerDice_fg0p9")
    with pytest.raises(TypeError, match="_fg: expected nnU-Net's own data loader, got list_iter"):
        trainer.get_dataloaders()


@pytest.mark.parametrize("name", ["MEEP_KL", "DiceCE"])
def test_a_loss_that_is_not_finite_stops_the_training_and_says_where(project, name):
    trainer = project().trainer(f"nnUNetTrainer{name}_3epochs_4iters")
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


def test_wandb_gets_what_the_log_gets(project):
    trainer = project().trainer("nnUNetTrainerMEEP_KL_2epochs_1iters")
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


def test_the_training_log_says_it_beside_nnunets_lines(project):
    trainer = project().trainer("nnUNetTrainerMEEP_KL_lambda0p2_1epochs_2iters")
    trainer.run_training()
    text = Path(trainer.log_file).read_text()
    for line in (
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


def test_where_all_validation_patches_are_forced_the_log_says_so(project):
    class Forced(MEEPMixin, nnUNetTrainer):
        experiment = parse("nnUNetTrainerMEEP_KL_1epochs_1iters")

        def __init__(self, plans, configuration, fold, dataset_json, device):
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.oversample_foreground_percent = 1.0

    trainer = project().trainer(Forced)
    trainer.run_training()
    text = Path(trainer.log_file).read_text()
    assert "No pseudo ECE, Brier and unexpected errors: nnU-Net centres all validation" in text
    log = load(trainer, "checkpoint_final.pth")["logging"]
    assert np.isnan(log["unexpected_errors"]).all()
    assert np.isfinite(log["misclassified"]).all()
