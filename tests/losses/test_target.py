"""A label that is neither a class nor the ignore label is an error in every loss."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from test_closed_form import IMPLEMENTATIONS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from nnunet_meep.losses import (
    FocalLoss,
    RegularizedLoss,
    confidence_penalty,
    focal_loss,
    meep_entropy,
    meep_kl,
    voxels,
)
from nnunet_meep.losses.compound import DiceCE
from nnunet_meep.losses.voxels import check_labels

FUNCTIONS = {"MEEP_KL": meep_kl, "MEEP_H": meep_entropy, "CP": confidence_penalty}
FUNCTIONS["focal"] = focal_loss
MODULES = ("focal module", "segmentation loss", "composed", *IMPLEMENTATIONS)

every_loss = pytest.mark.parametrize("name", [*FUNCTIONS, *MODULES])
every_number_of_classes = pytest.mark.parametrize("n_classes", [2, 3])
#: "next" is nnU-Net's, the number of classes.
every_ignore_label = pytest.mark.parametrize("ignore", [None, "next", 255, -1])


def ignore_label_of(ignore: int | str | None, n_classes: int) -> int | None:
    return n_classes if ignore == "next" else ignore


def in_triton(name: str) -> bool:
    return name in IMPLEMENTATIONS and name != "torch"


def torch_selects_uint16() -> bool:
    try:
        torch.where(torch.tensor([True]), torch.zeros(1, dtype=torch.uint16), 0)
    except RuntimeError:
        return False
    return True


def ends_the_process(name: str) -> bool:
    """On a GPU it is an assertion, after which the process cannot use the GPU any more."""
    return in_triton(name) and torch.cuda.is_available()


def value_and_gradient(name, target, n_classes, ignore_label, regions=False):
    """Of random logits, the same in each call."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(target.shape[0], n_classes, *target.shape[2:], generator=generator)
    labels = {"ignore_label": ignore_label, "regions": regions}
    dice = {"batch_dice": False, "do_bg": False, "smooth": 1e-5, "ddp": False}
    own = DC_and_CE_loss(dice, {}, 1, 1, ignore_label, MemoryEfficientSoftDiceLoss)
    if name in FUNCTIONS:

        def loss(logits, target):
            return FUNCTIONS[name](logits, target, **labels)
    elif name == "focal module":
        loss = FocalLoss(**labels)
    elif name == "segmentation loss":
        loss = RegularizedLoss(own, **labels)
    elif name == "composed":
        loss = RegularizedLoss(own, "MEEP_KL", 0.3, **labels)
    else:
        settings = DiceCE(1, 1, False, False, 1e-5, ddp=False)
        loss = IMPLEMENTATIONS[name](own, settings, "MEEP_KL", 0.3, **labels)
        if in_triton(name) and torch.cuda.is_available():
            logits, target = logits.cuda(), target.cuda()
    value = loss(logits.requires_grad_(), target)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


def valid_target(n_classes: int, ignore_label: int | None) -> torch.Tensor:
    """All classes, and some voxels that are ignored; int64."""
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(0, n_classes, (2, 1, 4, 5), generator=generator)
    target[0, 0, 0, :n_classes] = torch.arange(n_classes)
    if ignore_label is not None:
        target[1, 0, 1] = ignore_label
    return target


def dtypes_of(values: torch.Tensor) -> list[torch.dtype]:
    """Those that can hold the values."""
    dtypes = [torch.uint8, torch.int16, torch.int64, torch.uint16, torch.float16, torch.float32]
    return [dtype for dtype in dtypes if torch.equal(values.to(dtype).to(values.dtype), values)]


def expected(n_classes: int, ignore_label: int | None, got: str = "") -> str:
    """The message, as a pattern."""
    ignored = "" if ignore_label is None else rf" \(or the ignore label {ignore_label}\)"
    return rf"^target: expected labels 0 to {n_classes - 1}{ignored}{got}$"


@every_loss
@every_number_of_classes
@every_ignore_label
@pytest.mark.parametrize("label", ["next", 7, 255, -1])
def test_a_label_outside_the_classes_is_refused_by_name(name, n_classes, ignore, label):
    ignore_label = ignore_label_of(ignore, n_classes)
    label = ignore_label_of(label, n_classes)
    if label == ignore_label or ends_the_process(name):
        return
    target = valid_target(n_classes, ignore_label)
    target[1, 0, 2, 3] = label
    for dtype in dtypes_of(target):
        got = float(label) if dtype.is_floating_point else label
        with pytest.raises(ValueError, match=expected(n_classes, ignore_label, f", got {got}")):
            value_and_gradient(name, target.to(dtype), n_classes, ignore_label)


@every_loss
@every_ignore_label
@pytest.mark.parametrize("label", [0.5, 1.25, -0.5, float("nan"), float("inf"), -float("inf")])
def test_a_label_that_is_no_whole_number_is_refused(name, ignore, label):
    if ends_the_process(name):
        return
    ignore_label = ignore_label_of(ignore, 2)
    for dtype in (torch.float16, torch.float32, torch.float64):
        target = valid_target(2, ignore_label).to(dtype)
        target[1, 0, 2, 3] = label
        with pytest.raises(ValueError, match=expected(2, ignore_label, f", got {label}")):
            value_and_gradient(name, target, 2, ignore_label)


@every_loss
@every_number_of_classes
@every_ignore_label
def test_labels_of_every_dtype_have_value_and_gradient_as_without_the_check(
    monkeypatch, name, n_classes, ignore
):
    ignore_label = ignore_label_of(ignore, n_classes)
    target = valid_target(n_classes, ignore_label)
    given = {dtype: target.to(dtype) for dtype in dtypes_of(target)}
    if in_triton(name) or not torch_selects_uint16():
        given.pop(torch.uint16, None)  # neither Triton nor torch 2.6, in nnU-Net's loss, takes it
    results = {
        dtype: value_and_gradient(name, labels, n_classes, ignore_label)
        for dtype, labels in given.items()
    }
    monkeypatch.setattr(voxels, "check_labels", lambda *_: None)
    for dtype, labels in given.items():
        unchecked = value_and_gradient(name, labels, n_classes, ignore_label)
        assert all(map(torch.equal, results[dtype], unchecked)), dtype
        assert torch.equal(labels.long(), target), dtype


@every_loss
def test_regions_have_no_labels(name):
    """Their target is compared with one half, whatever its numbers."""
    if name == "segmentation loss" or name == "composed":
        return  # nnU-Net's loss for regions takes zeros and ones
    target = valid_target(2, 255)[:, [0, 0, 0]]
    numbers = value_and_gradient(name, target, 2, 1, regions=True)
    one_hot = value_and_gradient(name, (target > 0.5).int(), 2, 1, regions=True)
    assert all(map(torch.equal, numbers, one_hot))


@pytest.mark.parametrize(
    ("label", "dtype", "n_classes", "ignore_label"),
    [
        (255, torch.uint8, 2, -1),
        (-1, torch.int8, 2, 255),
        (44, torch.uint8, 2, 300),
        (-1, torch.int8, 200, None),
        (65535, torch.uint16, 2, -1),
    ],
)
def test_a_narrow_dtype_wraps_nothing_around(label, dtype, n_classes, ignore_label):
    target = torch.zeros(1, 1, 2, 2, dtype=dtype)
    check_labels(target, n_classes, ignore_label)
    target[0, 0, 0, 1] = label
    with pytest.raises(ValueError, match=expected(n_classes, ignore_label, f", got {label}")):
        check_labels(target, n_classes, ignore_label)


def test_more_classes_than_a_dtype_has_numbers_are_no_mistake():
    check_labels(torch.full((1, 1, 2, 2), 127, dtype=torch.int8), 200, None)
    check_labels(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), 256, 256)


def test_an_empty_target_has_no_label_outside():
    assert meep_kl(torch.zeros(0, 3, 4, 4), torch.zeros(0, 1, 4, 4)) == 0


class Operations(TorchDispatchMode):
    """Names of the operations on more than one number."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(isinstance(x, torch.Tensor) and x.numel() > 1 for x in args):
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("ignore_label", [None, 3])
def test_the_labels_of_nnunet_are_read_once(ignore_label):
    target = valid_target(3, ignore_label).to(torch.int16)
    with Operations() as operations:
        check_labels(target, 3, ignore_label)
    assert operations.names == ["aminmax"]


class OnGPU(torch.Tensor):
    """A tensor of the CPU that takes the way of a GPU's."""

    is_cuda = True


@every_ignore_label
@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
def test_on_a_gpu_it_is_an_assertion(ignore, dtype):
    ignore_label = ignore_label_of(ignore, 2)
    target = valid_target(2, ignore_label).to(dtype).as_subclass(OnGPU)
    check_labels(target, 2, ignore_label)
    for label in (-2, 7, *([0.5, float("nan")] if dtype.is_floating_point else [])):
        target[1, 0, 2, 3] = label
        with pytest.raises(RuntimeError, match=expected(2, ignore_label)):
            check_labels(target, 2, ignore_label)


@every_ignore_label
@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
def test_nothing_waits_for_a_gpu(ignore, dtype):
    """A fake tensor has no numbers: to ask for one is an error."""
    with FakeTensorMode():
        target = torch.zeros(2, 1, 4, 5, dtype=dtype, device="cuda")
        check_labels(target, 2, ignore_label_of(ignore, 2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every_ignore_label
def test_a_gpu_really_is_not_waited_for(ignore):
    ignore_label = ignore_label_of(ignore, 2)
    target = valid_target(2, ignore_label).to("cuda", torch.int16)
    torch.cuda.set_sync_debug_mode("error")
    try:
        check_labels(target, 2, ignore_label)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("label", [1, 2])
def test_the_assertion_of_a_gpu_ends_the_process(label):
    code = (
        "import torch; from nnunet_meep.losses import meep_kl; "
        f"y = torch.full((1, 1, 2, 2), {label}, device='cuda', dtype=torch.int16); "
        "print(meep_kl(torch.randn(1, 2, 2, 2, device='cuda'), y).isfinite().item())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode == 0) == (label == 1)
    assert ("expected labels 0 to 1" in result.stdout + result.stderr) == (label == 2)
