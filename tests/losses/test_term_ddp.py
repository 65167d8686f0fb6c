"""Two processes with part of the batch each train like one process with all of it."""

from __future__ import annotations

import datetime
from functools import partial
from pathlib import Path

import meep_oracle
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from nnunet_meep.losses import (
    confidence_penalty,
    dscpp_loss,
    focal_loss,
    label_smoothing,
    mbls,
    meep_entropy,
    meep_kl,
    ml1_ace,
    nacl,
    svls,
)

LOSSES = {
    "MEEP_KL": meep_kl,
    "MEEP_H": meep_entropy,
    "CP": confidence_penalty,
    "focal": focal_loss,
}
GAMMA = 2.0  # focal_loss's own
#: Compared with one process alone: tests/losses/test_rivals.py has their oracles.
RIVALS = {
    "LS": label_smoothing,
    "SVLS": svls,
    "MbLS": partial(mbls, margin=0.1),
    "NACL": nacl,
    "mL1ACE": ml1_ace,
    "mL1ACEsoft": partial(ml1_ace, soft=True),
    "DSCpp": partial(dscpp_loss, batch_dice=True),
}
N_CLASSES = 3
#: How many voxels of each of the batch's four images are wrong; image size is 6 x 6.
ERRORS = {
    "unequal numbers of errors": (1, 3, 20, 36),
    "no error on rank 0": (0, 0, 5, 9),
    "no error on rank 1": (4, 30, 0, 0),
    "no error at all": (0, 0, 0, 0),
    "one rank ignored altogether": (3, 7, 11, 2),
}
#: Images of rank 0; the rest is for rank 1.
SHARES = (2, 1)
CASES = [
    (errors, kind, name, share)
    for errors in ERRORS
    for kind in ("labels", "regions")
    for name in LOSSES
    for share in SHARES
]
CASES += [
    (errors, kind, name, 1)
    for errors in ("unequal numbers of errors", "one rank ignored altogether")
    for kind in ("labels", "regions")
    for name in RIVALS
    if kind == "labels" or name not in ("LS", "SVLS")
]


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(1, N_CLASSES, 3, padding=1, dtype=torch.float64)


def make_batch(errors: str, kind: str) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Images and a target in which exactly the asked for voxels (of each region) are wrong."""
    images = torch.randn(
        4, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        logits = make_network()(images)
    wrong = torch.zeros(4, 1, 36, dtype=torch.bool)
    for image, n_wrong in enumerate(ERRORS[errors]):
        wrong[image, 0, :n_wrong] = True
    wrong = wrong.view(4, 1, 6, 6)
    ignored = torch.zeros_like(wrong)
    if errors == "one rank ignored altogether":
        ignored[2:] = True
        ignored[0, 0, 0] = True
    if kind == "labels":
        prediction = logits.argmax(1, keepdim=True)
        target = torch.where(wrong, (prediction + 1) % N_CLASSES, prediction)
        target = torch.where(ignored, N_CLASSES, target)
    else:
        target = torch.cat([(logits > 0) != wrong, ignored], 1)
    return images, target, {"ignore_label": N_CLASSES, "regions": kind == "regions"}


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
        errors, kind, name, share = case
        images, target, options = make_batch(errors, kind)
        part = slice(0, share) if rank == 0 else slice(share, None)
        network = nn.parallel.DistributedDataParallel(make_network())
        value = (LOSSES | RIVALS)[name](network(images[part]), target[part], **options)
        value.backward()
        results[case] = (value.item(), network.module.weight.grad, network.module.bias.grad)
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    mp.spawn(run_rank, args=(folder,), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", CASES, ids="-".join(["%s"] * 4).__mod__)
def test_two_ranks_get_the_value_and_gradient_of_one_process_with_the_whole_batch(of_ranks, case):
    errors, kind, name, _ = case
    images, target, options = make_batch(errors, kind)
    network = make_network()
    logits = network(images)
    arrays = logits.detach().numpy(), target.numpy()
    if name in RIVALS:
        alone = RIVALS[name](logits, target, **options)
        alone.backward()
        value = alone.item()
    else:
        if name == "focal":
            value, gradient = meep_oracle.focal(*arrays, GAMMA, **options)
        else:
            value, gradient = meep_oracle.term(name, *arrays, **options)
        logits.backward(torch.tensor(gradient))
    for of_rank in of_ranks:
        rank_value, weight_gradient, bias_gradient = of_rank[case]
        assert rank_value == pytest.approx(value, rel=1e-12, abs=1e-14)
        torch.testing.assert_close(weight_gradient, network.weight.grad, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(bias_gradient, network.bias.grad, rtol=1e-10, atol=1e-13)
    assert of_ranks[0][case][0] == of_ranks[1][case][0]


def test_the_cases_have_as_many_errors_as_they_say():
    with torch.no_grad():
        for errors, numbers in ERRORS.items():
            images, target, _ = make_batch(errors, "labels")
            wrong = make_network()(images).argmax(1) != target[:, 0]
            valid = target[:, 0] != N_CLASSES
            if "ignored" not in errors:
                assert wrong.sum((1, 2)).tolist() == list(numbers)
            else:
                assert valid[:2].any()
                assert not valid[2:].any()
                assert np.asarray((wrong & valid)[:2]).any()
