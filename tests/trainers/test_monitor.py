"""What a training logs of its probabilities, against the evaluator and numpy on the same voxels."""

from __future__ import annotations

import datetime
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from scipy.special import expit, softmax
from scipy.stats import entropy

from nnunet_meep.evaluation.counting.bins import grid
from nnunet_meep.evaluation.counting.class_counts import count_voxels
from nnunet_meep.evaluation.metrics.scores import class_metrics
from nnunet_meep.losses.compound import ClosedFormLoss, DiceCE
from nnunet_meep.losses.regularized import LossParts
from nnunet_meep.trainers.monitor import N_BINS, TrainingMonitor, weighted_parts

KINDS = ("labels", "labels+ignore", "regions", "regions+ignore")
CPU = torch.device("cpu")
every_kind = pytest.mark.parametrize("kind", KINDS)


def make_batch(kind, seed, size=8):
    """Logits of three channels, sharp and blurred, and a target that fits about half of them."""
    generator = torch.Generator().manual_seed(seed)
    space = (size, size, size)
    logits = 3 * torch.randn(2, 3, *space, generator=generator)
    noise = 3 * torch.randn(2, 3, *space, generator=generator)
    ignored = torch.rand(2, 1, *space, generator=generator) < 0.3
    if kind.startswith("regions"):
        target = (logits + noise) > 0
        target = torch.cat([target, ignored], 1) if kind.endswith("ignore") else target
    else:
        target = (logits + noise).argmax(1, keepdim=True)
        target = torch.where(ignored, 3, target) if kind.endswith("ignore") else target
        target = target.to(torch.int16)
    return logits, target


def make_monitor(kind):
    regions = kind.startswith("regions")
    return TrainingMonitor(
        3 if regions else 2,
        ignore_label=3 if kind.endswith("ignore") else None,
        regions=regions,
        device=CPU,
    )


def flat(kind, batches):
    """Probabilities (K or R, N), labels or regions and what is valid, of all batches at once."""
    logits = np.concatenate([z.double().numpy() for z, _ in batches])
    target = np.concatenate([y.numpy().astype(int) for _, y in batches])
    if kind.startswith("regions"):
        valid = target[:, 3].ravel() == 0 if kind.endswith("ignore") else ...
        p = np.moveaxis(expit(logits), 1, 0).reshape(3, -1)[:, valid]
        y = np.moveaxis(target[:, :3], 1, 0).reshape(3, -1)[:, valid]
        return p.reshape(3, -1), y.reshape(3, -1)
    valid = target.ravel() != 3
    p = np.moveaxis(softmax(logits, 1), 1, 0).reshape(3, -1)[:, valid]
    return p, target.ravel()[valid]


def binary(kind, p, y):
    """(probability, truth) of each foreground class or region."""
    if kind.startswith("regions"):
        return list(zip(p, y == 1, strict=True))
    return [(p[c], y == c) for c in (1, 2)]


def decisions(kind, p, y):
    """Class probabilities (problems, K) and whether each decision is wrong."""
    if kind.startswith("regions"):
        pairs = np.stack([1 - p, p], -1).reshape(-1, 2)
        return pairs, (p > 0.5).ravel() != (y == 1).ravel()
    return p.T, p.argmax(0) != y


def add(monitor, batch):
    logits, target = batch
    monitor.add_validation(logits, target)
    monitor.add_training(logits, target, LossParts(logits.mean(), torch.tensor(1.5)))


def filled(kind, seeds=(0, 1, 2)):
    monitor = make_monitor(kind)
    batches = [make_batch(kind, seed) for seed in seeds]
    for batch in batches:
        add(monitor, batch)
    return monitor, batches


@every_kind
def test_errors_that_the_loss_counted_are_those_that_the_monitor_counts(kind):
    counting, given = make_monitor(kind), make_monitor(kind)
    labels = {"ignore_label": given.ignore_label, "regions": given.regions}
    settings = DiceCE(1, 1, batch_dice=True, background=True, smooth=1e-5, ddp=False)
    loss = ClosedFormLoss(torch.nn.Identity(), settings, "MEEP_H", 0.3, **labels)
    for seed in range(3):
        logits, target = make_batch(kind, seed)
        loss(logits, target)
        assert loss.parts.errors is not None
        given.add_training(logits, target, loss.parts)
        counting.add_training(logits, target, loss.parts._replace(errors=None))
    expected = counting.training_values()
    assert given.training_values() == pytest.approx(expected, rel=1e-6)
    assert given.training_values()["misclassified"] == expected["misclassified"]


@every_kind
def test_validation_values_are_those_of_the_evaluator_over_all_voxels(kind):
    monitor, batches = filled(kind)
    values = monitor.validation_values()
    p, y = flat(kind, batches)
    expected = [
        class_metrics(count_voxels(prob, truth, prob > 0.5, N_BINS), grid(N_BINS))
        for prob, truth in binary(kind, p, y)
    ]
    for key in ("ece", "brier"):
        reference = [metrics[key] for metrics in expected]
        assert values[f"{key}_per_class_or_region"] == pytest.approx(reference, rel=1e-5)
        assert values[f"mean_fg_{key}"] == pytest.approx(np.mean(reference), rel=1e-5)
    pairs, wrong = decisions(kind, p, y)
    r = 1 - (1 - pairs.max(-1)).mean() / wrong.mean()
    assert values["unexpected_errors"] == pytest.approx(r, rel=1e-5)


@every_kind
def test_training_values_are_means_over_batches_and_over_misclassified_voxels(kind):
    monitor, batches = filled(kind)
    values = monitor.training_values()
    pairs, wrong = decisions(kind, *flat(kind, batches))
    n_classes = pairs.shape[1]
    assert values["segmentation_loss"] == pytest.approx(
        np.mean([z.double().mean().item() for z, _ in batches]), rel=1e-5
    )
    assert values["term_value"] == pytest.approx(1.5)
    assert values["misclassified"] == pytest.approx(wrong.mean())
    relative = entropy(pairs[wrong], axis=1).mean() / math.log(n_classes)
    assert values["misclassified_entropy"] == pytest.approx(relative, rel=1e-5)


def of_probability(*p_of_class_1):
    p = torch.tensor(p_of_class_1, dtype=torch.float64)
    return torch.stack([(1 - p).log(), p.log()])[None, :, :, None]


def test_unexpected_errors_by_hand():
    monitor = TrainingMonitor(1, ignore_label=None, regions=False, device=CPU)
    # Two errors of four where the network expects .1 + .2 + .1 + .4 = .8 of them.
    target = torch.tensor([0, 0, 1, 1]).view(1, 1, 4, 1)
    monitor.add_validation(of_probability(0.9, 0.2, 0.9, 0.4), target)
    values = monitor.validation_values()
    assert values["unexpected_errors"] == pytest.approx(1 - 0.8 / 2)
    assert values["mean_fg_brier"] == pytest.approx((0.81 + 0.04 + 0.01 + 0.36) / 4)
    # p 0.9 holds one of two; 0.2 and 0.4 stand in bins of their own.
    assert values["mean_fg_ece"] == pytest.approx((abs(1.8 - 1) + 0.2 + 0.6) / 4)


def test_a_probability_of_0_and_of_1_has_a_bin():
    monitor = TrainingMonitor(1, ignore_label=None, regions=False, device=CPU)
    logits = torch.tensor([[-1e4, 1e4], [1e4, -1e4]]).view(1, 2, 2, 1)
    monitor.add_validation(logits, torch.tensor([0, 1]).view(1, 1, 2, 1))
    values = monitor.validation_values()
    assert values["mean_fg_ece"] == values["mean_fg_brier"] == 1
    assert values["unexpected_errors"] == 1


def test_the_bins_are_the_evaluators_also_at_their_edges():
    monitor = TrainingMonitor(1, ignore_label=None, regions=False, device=CPU)
    # At each edge of 15 bins a voxel of the class, below it one that is not, and one in the last
    # bin: wherever a voxel stands in another bin, it is weighed against others.
    edges = np.arange(1, 15) / 15
    logits = of_probability(*edges, *(edges - 1 / 30), 29 / 30)
    target = torch.tensor([1] * 14 + [0] * 14 + [1]).view(1, 1, 29, 1)
    monitor.add_validation(logits, target)
    p = logits.log_softmax(1)[0, 1].exp().numpy().ravel()
    assert np.isin(p, np.linspace(0, 1, 16)).any()
    y = target.numpy().ravel() == 1
    expected = class_metrics(count_voxels(p, y, p > 0.5, 15), grid(15))["ece"]
    assert monitor.validation_values()["mean_fg_ece"] == pytest.approx(expected, rel=1e-9)


def test_what_a_network_expects_and_makes_in_equal_number_gives_0():
    monitor = TrainingMonitor(1, ignore_label=None, regions=False, device=CPU)
    target = torch.tensor([1, 1, 1, 0]).view(1, 1, 4, 1)
    monitor.add_validation(of_probability(0.75, 0.75, 0.75, 0.75), target)
    values = monitor.validation_values()
    assert values["unexpected_errors"] == pytest.approx(0)
    assert values["mean_fg_ece"] == pytest.approx(0)


@every_kind
def test_float16_logits_are_counted_in_float32_or_better(kind):
    logits, target = make_batch(kind, 0)
    results = []
    for dtype in (torch.float16, torch.float64):
        monitor = make_monitor(kind)
        monitor.add_validation(logits.half().to(dtype), target)
        results.append(monitor.validation_values())
    assert results[0]["unexpected_errors"] == pytest.approx(
        results[1]["unexpected_errors"], rel=1e-5
    )
    assert results[0]["mean_fg_brier"] == pytest.approx(results[1]["mean_fg_brier"], rel=1e-5)


@every_kind
def test_the_sums_keep_no_graph(kind):
    monitor = make_monitor(kind)
    logits, target = make_batch(kind, 0)
    add(monitor, (logits.requires_grad_(), target))
    sums = [value for value in vars(monitor).values() if isinstance(value, torch.Tensor)]
    assert len(sums) >= 5
    assert not any(value.requires_grad for value in sums)


@every_kind
def test_a_new_epoch_forgets_the_last(kind):
    monitor, _ = filled(kind)
    monitor.start_training()
    monitor.start_validation()
    fresh, _ = filled(kind, seeds=(5,))
    logits, target = make_batch(kind, 5)
    monitor.add_validation(logits, target)
    monitor.add_training(logits, target, LossParts(logits.mean(), torch.tensor(1.5)))
    assert monitor.validation_values() == fresh.validation_values()
    assert monitor.training_values() == fresh.training_values()


@pytest.mark.parametrize("kind", ["labels+ignore", "regions+ignore"])
def test_where_nothing_is_valid_there_is_no_number(kind):
    monitor = make_monitor(kind)
    logits, target = make_batch(kind, 0)
    target = torch.full_like(target, 1 if kind.startswith("regions") else 3)
    monitor.add_validation(logits, target)
    monitor.add_training(logits, target, LossParts(torch.tensor(0.5), torch.tensor(0.0)))
    assert_no_validation_value(monitor)
    values = monitor.training_values()
    assert values["segmentation_loss"] == 0.5
    assert math.isnan(values["misclassified"])
    assert math.isnan(values["misclassified_entropy"])


def assert_no_validation_value(monitor):
    for key, value in monitor.validation_values().items():
        assert np.isnan(value).all() or (key.startswith("validation_") and value == 0)


def test_no_patch_gives_no_number():
    monitor = make_monitor("labels")
    logits, target = make_batch("labels", 0)
    monitor.add_validation(logits[[]], target[[]])
    assert_no_validation_value(monitor)


def test_without_an_error_there_is_no_share_of_them():
    monitor = TrainingMonitor(1, ignore_label=None, regions=False, device=CPU)
    logits, target = of_probability(0.9, 0.2), torch.tensor([1, 0]).view(1, 1, 2, 1)
    monitor.add_validation(logits, target)
    monitor.add_training(logits, target, LossParts(torch.tensor(1.0), torch.tensor(0.0)))
    assert math.isnan(monitor.validation_values()["unexpected_errors"])
    assert monitor.validation_values()["mean_fg_ece"] == pytest.approx(0.15)
    assert monitor.training_values()["misclassified"] == 0
    assert math.isnan(monitor.training_values()["misclassified_entropy"])


def test_logits_that_are_no_numbers_give_no_numbers():
    monitor = make_monitor("labels")
    logits, target = make_batch("labels", 0)
    logits[0, :, 0, 0, 0] = math.nan
    monitor.add_validation(logits, target)
    assert math.isnan(monitor.validation_values()["mean_fg_brier"])


def test_an_infinitely_sure_error_has_entropy_0():
    monitor = TrainingMonitor(1, ignore_label=None, regions=False, device=CPU)
    logits = torch.tensor([math.inf, 0.0]).view(1, 2, 1, 1)
    logits = torch.cat([logits, of_probability(0.5).float()], 2)
    target = torch.tensor([0, 1]).view(1, 1, 2, 1)
    monitor.add_training(logits, target, LossParts(torch.tensor(0.0), torch.tensor(0.0)))
    assert monitor.training_values()["misclassified_entropy"] == pytest.approx(1)


def test_parts_are_weighted_like_the_loss():
    parts = [
        LossParts(torch.tensor(1.0), torch.tensor(4.0)),
        LossParts(torch.tensor(2.0), torch.tensor(8.0)),
    ]
    whole = weighted_parts(parts, (0.75, 0.25))
    assert whole.segmentation.item() == 1.25
    assert whole.term.item() == 5
    with pytest.raises(ValueError, match=r"shorter|longer"):
        weighted_parts(parts, (1.0,))


def run_rank(rank, folder):
    """One of two processes: the first has two batches, the second one, for each kind."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=(folder / "meeting_point").as_uri(),
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=180),
    )
    results = {}
    for kind in KINDS:
        monitor = make_monitor(kind)
        add(monitor, make_batch(kind, (0, 2)[rank]))
        # Whoever asks leaves each rank its own sums.
        monitor.training_values(), monitor.validation_values()
        if rank == 0:
            add(monitor, make_batch(kind, 1))
        results[kind] = (monitor.training_values(), monitor.validation_values())
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_say_what_one_process_says(tmp_path: Path):
    mp.spawn(run_rank, args=(tmp_path,), nprocs=2)
    for rank in range(2):
        results = torch.load(tmp_path / f"rank{rank}.pt")
        for kind in KINDS:
            monitor, _ = filled(kind)
            expected = (monitor.training_values(), monitor.validation_values())
            for ours, one in zip(results[kind], expected, strict=True):
                assert ours.keys() == one.keys()
                for key in one:
                    assert ours[key] == pytest.approx(one[key], rel=1e-12)


class OnMPS(torch.Tensor):
    """In the place of a tensor on Apple's device: it has no float64, and copies convert there."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):
        result = super().__torch_function__(function, types, arguments, options)
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            raise TypeError("the MPS framework doesn't support float64")
        moved = any(isinstance(argument, torch.device) for argument in arguments)
        return result.as_subclass(torch.Tensor) if moved else result


@every_kind
def test_apples_device_needs_no_float64(kind):
    monitor, batches = filled(kind)
    of_mps = TrainingMonitor(
        monitor.n_classes,
        ignore_label=monitor.ignore_label,
        regions=monitor.regions,
        device=torch.device("mps"),
    )
    for logits, target in batches:
        logits, target = logits.as_subclass(OnMPS), target.as_subclass(OnMPS)
        with pytest.raises(TypeError):
            logits.to(torch.zeros((), dtype=torch.float64))
        of_mps.add_validation(logits, target)
        term = torch.tensor(1.5).as_subclass(OnMPS)
        of_mps.add_training(logits, target, LossParts(logits.mean(), term))
    assert of_mps.training_values() == monitor.training_values()
    assert of_mps.validation_values() == monitor.validation_values()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every_kind
def test_the_gpu_counts_like_the_cpu(kind):
    monitor, batches = filled(kind)
    on_gpu = TrainingMonitor(
        monitor.n_classes,
        ignore_label=monitor.ignore_label,
        regions=monitor.regions,
        device=torch.device("cuda"),
    )
    for logits, target in batches:
        on_gpu.add_validation(logits.cuda(), target.cuda())
        parts = LossParts(logits.mean().cuda(), torch.tensor(1.5))
        on_gpu.add_training(logits.cuda(), target.cuda(), parts)
    for ours, reference in (
        (on_gpu.training_values(), monitor.training_values()),
        (on_gpu.validation_values(), monitor.validation_values()),
    ):
        for key in reference:
            assert ours[key] == pytest.approx(reference[key], rel=1e-4)
