"""The closed form on two ranks is that of one process with the whole batch."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_closed_form import IMPLEMENTATIONS, batch, both
from torch import nn

#: Batch Dice and term are sums over all ranks. Cross-entropy is nnU-Net's mean of each rank, so
#: that it takes part only where the ranks have equally many voxels.
CASES = [
    (term, n_classes, regions, share, weight_ce, implementation)
    for implementation in sorted({"torch", "triton"} & IMPLEMENTATIONS.keys())
    for term in ("MEEP_KL", "MEEP_H", "CP")
    for n_classes in (2, 3)
    for regions in (False, True)
    for share, weight_ce in ((1, 0), (2, 0), (2, 1))
    # gloo takes no tensors of a GPU.
    if implementation == "torch" or not torch.cuda.is_available()
]


def make_network(n_classes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(n_classes, n_classes, 3, padding=1, dtype=torch.float64)


def make_case(case):
    """Images, a target that is ignored in part, the closed form, and what it has to be."""
    term, n_classes, regions, _, weight_ce, implementation = case
    ignore = not weight_ce
    images, target = batch(
        1, (4, 6, 5), n_classes, ignore=ignore, regions=regions, dtype=torch.float64
    )
    ours, plain = both(
        term=term,
        n_classes=n_classes,
        ignore=ignore,
        regions=regions,
        batch_dice=True,
        background=regions,
        weights=(weight_ce, 1),
    )
    over_ranks = IMPLEMENTATIONS[implementation](
        ours.segmentation_loss,
        type(ours.settings)(**{**vars(ours.settings), "ddp": True}),
        term,
        ours.weight,
        ignore_label=ours.ignore_label,
        regions=regions,
    )
    return images, target, over_ranks, plain


def run_rank(rank: int, folder: Path) -> None:
    """One of the two processes: all cases, in the same order on both."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=(folder / "meeting_point").as_uri(),
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=180),  # a rank that stays away is an error, not a hang
    )
    results = {}
    for case in CASES:
        images, target, loss, _ = make_case(case)
        share = case[3]
        part = slice(0, share) if rank == 0 else slice(share, None)
        network = nn.parallel.DistributedDataParallel(make_network(case[1]))
        value = loss(network(images[part]), target[part])
        value.backward()
        results[case] = (value.item(), network.module.weight.grad, network.module.bias.grad)
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    mp.spawn(run_rank, args=(folder,), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", CASES, ids="-".join(["%s"] * 6).__mod__)
def test_two_ranks_train_like_one_process(of_ranks, case):
    images, target, _, plain = make_case(case)
    network = make_network(case[1])
    value = plain(network(images), target)
    value.backward()
    mean_value = sum(results[case][0] for results in of_ranks) / 2
    # nnU-Net's Dice sums in float32.
    assert mean_value == pytest.approx(value.item(), rel=1e-6)
    for results in of_ranks:
        _, weight_gradient, bias_gradient = results[case]
        torch.testing.assert_close(weight_gradient, network.weight.grad, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(bias_gradient, network.bias.grad, rtol=1e-5, atol=1e-8)
