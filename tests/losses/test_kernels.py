"""What is the kernels' own: many programs, wide tiles, memory layouts; and that they compile.

Their values and gradients are tested with the other closed forms in ``test_closed_form.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from test_closed_form import assert_same, batch, both, value_and_gradient

from nnunet_meep.losses import kernels

every_labels = pytest.mark.parametrize("regions", [False, True])


@pytest.fixture
def small_programs(monkeypatch):
    """So that a few voxels are many programs, and these several rounds of the last sum."""
    monkeypatch.setattr(kernels, "TILE", 64)
    monkeypatch.setattr(kernels, "SHORTEST_TILE", 8)
    monkeypatch.setattr(kernels, "VOXELS", 64)
    monkeypatch.setattr(kernels, "COMPOSED", 8)


@pytest.mark.parametrize(
    ("n_classes", "batch_dice", "regions"),
    [(2, False, False), (2, True, True), (5, False, True), (5, True, False)],  # all pairs
)
def test_many_programs_add_up(small_programs, n_classes, batch_dice, regions):
    logits, target = batch(1, (3, 6, 7, 8), n_classes, ignore=True, regions=regions)
    ours, plain = both(
        "triton",
        term="MEEP_KL",
        n_classes=n_classes,
        ignore=True,
        regions=regions,
        background=regions,
        batch_dice=batch_dice,
    )
    assert_same(ours, plain, logits, target)


@settings(max_examples=20)
@given(shape=st.tuples(st.integers(1, 3), st.integers(1, 40)), n_classes=st.integers(17, 128))
@every_labels
def test_many_classes(shape, n_classes, regions):
    logits, target = batch(2, shape, n_classes, ignore=True, regions=regions)
    logits += 6 * (torch.arange(n_classes)[:, None] == (target[:, :1] % n_classes))
    ours, plain = both(
        "triton", term="MEEP_H", n_classes=n_classes, ignore=True, regions=regions, background=True
    )
    if regions or not (target == n_classes).all():
        assert_same(ours, plain, logits, target)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float32])
def test_labels_of_any_dtype(dtype):
    logits, target = batch(3, (2, 4, 5), 3, ignore=True, regions=False)
    ours, _ = both("triton", term="MEEP_KL", n_classes=3, ignore=True, regions=False)
    of_int16 = value_and_gradient(ours, logits, target)
    assert all(map(torch.equal, value_and_gradient(ours, logits, target.to(dtype)), of_int16))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.float32])
def test_regions_of_any_dtype(dtype):
    logits, target = batch(4, (2, 4, 5), 3, ignore=True, regions=True)
    how = {"n_classes": 3, "ignore": True, "regions": True, "background": True}
    ours, plain = both("triton", term="MEEP_KL", **how)
    assert_same(ours, plain, logits, target.to(dtype))


@every_labels
def test_logits_of_any_memory_layout(regions):
    logits, target = batch(5, (2, 4, 5, 6), 3, ignore=False, regions=regions)
    ours, _ = both("triton", term="MEEP_KL", n_classes=3, ignore=False, regions=regions)
    expected = value_and_gradient(ours, logits, target)
    layouts = [
        (logits.to(memory_format=torch.channels_last_3d), target),
        (logits.transpose(2, 4).contiguous().transpose(2, 4), target.mT.contiguous().mT),
    ]
    for of_logits, of_target in layouts:
        assert not of_logits.is_contiguous()
        assert all(map(torch.equal, value_and_gradient(ours, of_logits, of_target), expected))


@every_labels
def test_a_scaled_loss_has_a_scaled_gradient(regions):
    """As a GradScaler and the weights of deep supervision scale it."""
    logits, target = batch(6, (2, 4, 5), 3, ignore=False, regions=regions)
    ours, _ = both("triton", term="MEEP_KL", n_classes=3, ignore=False, regions=regions)
    _, gradient = value_and_gradient(ours, logits, target)
    _, scaled = value_and_gradient(lambda *x: 1024 * ours(*x), logits, target)
    assert torch.equal(scaled, 1024 * gradient)


def test_nothing_is_kept_but_logits_and_target():
    logits, target = batch(7, (2, 9, 9, 9), 4, ignore=False, regions=False)
    ours, _ = both("triton", term="MEEP_KL", n_classes=4, ignore=False, regions=False)
    logits, target = (
        x.to("cuda" if torch.cuda.is_available() else "cpu") for x in (logits, target)
    )
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        ours(logits.requires_grad_(), target)
    inputs = {logits.data_ptr(), target.data_ptr()}
    assert {x.data_ptr() for x in kept} > inputs
    assert sum(x.numel() for x in kept if x.data_ptr() not in inputs) <= 2 * 2 * 4 + 5


def test_autocast_rounds_nothing():
    """Products of matrices on the CPU are bfloat16 under its autocast."""
    logits, target = batch(8, (2, 9, 9), 4, ignore=False, regions=False)
    for implementation in ("torch", "triton-sums", "triton"):
        ours, _ = both(implementation, term="MEEP_KL", n_classes=4, ignore=False, regions=False)
        expected = value_and_gradient(ours, logits, target)
        kind = "cuda" if torch.cuda.is_available() and implementation != "torch" else "cpu"
        with torch.autocast(kind, torch.bfloat16):
            assert all(map(torch.equal, value_and_gradient(ours, logits, target), expected))


SCRIPT = Path(__file__).with_name("compile_for_gpu.py")


def run_script(folder: Path) -> list[dict]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env=environment | {"TRITON_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_without_spilled_registers(tmp_path):
    *kernels_of_problems, too_few_registers = run_script(tmp_path)
    every = {(k, dtype) for k in (2, 4, 16, 105, 128) for dtype in ("fp16", "fp32")}
    assert {(x["n_channels"], x["dtype"]) for x in kernels_of_problems} == {
        *every,
        (4, "bf16"),
        (128, "bf16"),
    }
    assert [x for x in kernels_of_problems if x["stack"]] == []
    assert too_few_registers["stack"] > 0  # spilled ones would be seen
