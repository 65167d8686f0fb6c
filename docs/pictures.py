"""Draws the pictures of ``concepts/`` into ``pictures/``.

python docs/pictures.py

All are made of our own losses, metrics and synthetic scans, and of random numbers with a seed.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.special import expit, logit

import nnunet_meep as nm
from nnunet_meep.datasets.synthetic import make_scan
from nnunet_meep.evaluation.report.plots import COLORS
from nnunet_meep.losses import RegularizedLoss

FOLDER = Path(__file__).parent / "pictures"
BLUE, ORANGE, GREEN = COLORS[:3]


def both(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of background and foreground, (2, *shape)."""
    return np.stack([1 - p, p])


def same_segmentation() -> Figure:
    """Three networks across a border: one segmentation, three kinds of probabilities."""
    rng = np.random.default_rng(0)
    mm = rng.uniform(-10, 10, 200_000)
    truth = expit(-mm / 1.5)
    labels = (rng.random(mm.size) < truth).astype(int)
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    profile, reliability = figure.subplots(1, 2, width_ratios=[1.25, 1])
    at = np.linspace(-10, 10, 400)
    kinds = (
        ("calibrated", 1.0, GREEN),
        ("overconfident", 4.0, BLUE),
        ("underconfident", 0.4, ORANGE),
    )
    for name, factor, color in kinds:
        profile.plot(at, expit(-factor * at / 1.5), color=color, label=name)
        p = both(expit(factor * logit(truth)))
        display = nm.ReliabilityDisplay.from_predictions(p, labels)
        display.plot(ax=reliability, label=name, color=color)
    profile.axhline(0.5, color="#7F7F7F", linewidth=0.8, linestyle="--")
    profile.set(xlabel="distance from the border, mm", ylabel="probability of the class")
    profile.set_title("The segmentation (p > 0.5) is the same")
    profile.legend(frameon=False)
    reliability.set_title("How often the class is there")
    return figure


def touched_voxels() -> Figure:
    """One slice: the probabilities, and the voxels that the term of MEEP acts on."""
    image, mask = (volume[12] for volume in make_scan(np.random.default_rng(3)))
    rng = np.random.default_rng(1)
    signed = distance_transform_edt(mask) - distance_transform_edt(1 - mask)
    noise = gaussian_filter(rng.standard_normal(mask.shape), 2.5)
    p = expit(1.3 * (gaussian_filter(signed, 0.7) + 1.6 * noise / noise.std()))
    wrong = (p > 0.5) != mask
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.imshow(image, cmap="gray")
    left.set_title("scan and reference")
    shown = middle.imshow(p, cmap="viridis", vmin=0, vmax=1)
    middle.set_title("probability of the class")
    figure.colorbar(shown, ax=middle, shrink=0.75)
    right.imshow(wrong, cmap=ListedColormap(["#F2F2F2", "#6A3D9A"]))
    right.set_title(f"misclassified ({wrong.mean():.0%})")
    for ax in (left, middle, right):
        ax.contour(mask, levels=[0.5], colors=["#E69F00"], linewidths=1.5)
        ax.set(xticks=[], yticks=[])
    return figure


class _Nothing(torch.nn.Module):
    """A segmentation loss that is 0, to see a term alone."""

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return 0 * logits.sum()


class _CrossEntropy(torch.nn.Module):
    """Cross-entropy of a target with a channel axis, as nnU-Net gives it."""

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, target[:, 0].long())


def push(loss: torch.nn.Module, p: float) -> float:
    """How hard a loss pushes the logit of the right class of one voxel, which has probability p."""
    at = torch.tensor(float(logit(p)), dtype=torch.float64, requires_grad=True)
    logits = torch.stack([torch.zeros_like(at), at])[None, :, None]
    loss(logits, torch.ones(1, 1, 1)).backward()
    assert at.grad is not None
    return -float(at.grad)


def gradients() -> Figure:
    """The push of cross-entropy and of both terms on one voxel, over the right class's p."""
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    ax = figure.subplots()
    losses = {
        "cross-entropy": (_CrossEntropy(), COLORS[6]),
        "MEEP-KL": (RegularizedLoss(_Nothing(), "MEEP_KL", 1.0), BLUE),
        "MEEP-H": (RegularizedLoss(_Nothing(), "MEEP_H", 1.0), ORANGE),
    }
    p = np.linspace(0.001, 0.999, 500)
    for name, (loss, color) in losses.items():
        ax.plot(p, [push(loss, at) for at in p], color=color, label=name)
    ax.axvspan(0, 0.5, color="#6A3D9A", alpha=0.08, linewidth=0)
    ax.text(0.25, 0.02, "misclassified", ha="center", color="#6A3D9A")
    ax.text(0.75, 0.02, "right: the terms are 0", ha="center", color="#7F7F7F")
    ax.set(xlabel="probability of the right class", ylabel="push on its logit", xlim=(0, 1))
    ax.legend(frameon=False)
    return figure


def pooled() -> Figure:
    """Two cases whose errors have opposite signs, and both together."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    p, cases = two_cases()
    for ax, (name, labels) in zip(figure.subplots(1, 3, sharey=True), cases.items(), strict=True):
        probabilities = both(np.tile(p, len(labels) // len(p)))
        display = nm.ReliabilityDisplay.from_predictions(probabilities, labels, n_bins=10)
        display.plot(ax=ax, label="the class")
        ece = nm.calibration_error(probabilities, labels, n_bins=10)[0]
        ax.set_title(f"{name}: ECE {ece:.3f}")
        ax.get_legend().remove()
    return figure


def two_cases() -> tuple[NDArray[np.float64], dict[str, NDArray[np.int64]]]:
    """Probabilities of a case's voxels, and the labels of two cases and of both in a row."""
    means = np.linspace(0.15, 0.85, 8)
    p = np.repeat(means, 1000)

    def labels(shift: float) -> NDArray[np.int64]:
        ones = np.round(1000 * (means + shift * np.sin(np.pi * means))).astype(int)
        return np.concatenate([np.arange(1000) < n for n in ones]).astype(np.int64)

    first, second = labels(0.1), labels(-0.1)
    both_cases = np.concatenate([first, second])
    return p, {"case 1": first, "case 2": second, "both pooled": both_cases}


def pitfalls() -> Figure:
    """Background that hides a calibration error, and folds whose average is less confident."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    background(left)
    averaged_folds(right)
    return figure


def background(ax: Axes) -> None:
    """The ECE and Brier+ of the same predictions, with ever more background around."""
    rng = np.random.default_rng(0)
    truth = expit(rng.normal(0, 2, 5000))
    p, labels = expit(3 * logit(truth)), (rng.random(5000) < truth).astype(int)
    shares = np.array([0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99])
    ece, plus = [], []
    for share in shares:
        n = round(len(p) * share / (1 - share))
        with_background = np.concatenate([p, np.full(n, 1e-6)])
        y = np.concatenate([labels, np.zeros(n, int)])
        ece.append(nm.calibration_error(both(with_background), y)[0])
        plus.append(np.mean((1 - with_background[y == 1]) ** 2))
    ax.plot(100 * shares, ece, color=BLUE, marker="o", label="ECE")
    ax.plot(100 * shares, plus, color=ORANGE, marker="s", label="Brier+")
    ax.set(xlabel="share of easy background, %", ylim=(0, None))
    ax.set_title("The same predictions in larger images")
    ax.legend(frameon=False)


def averaged_folds(ax: Axes) -> None:
    """The reliability of one of five calibrated networks, and of their average.

    Half of the variance of their errors is common to all.
    """
    rng = np.random.default_rng(0)
    n, n_folds, variance = 60_000, 5, 2.0
    labels = rng.integers(0, 2, n)
    error = rng.normal(0, 1, n) + rng.normal(0, 1, (n_folds, n))
    folds = expit(2 * (2 * labels - 1 + error) / variance)  # the posterior: each is calibrated
    for name, p, color in (("one fold", folds[0], BLUE), ("mean p of five", folds.mean(0), ORANGE)):
        display = nm.ReliabilityDisplay.from_predictions(both(p), labels)
        display.plot(ax=ax, label=name, color=color)
    ax.set_title("Five calibrated folds")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG of few colours, which is a third as large."""
    buffer = BytesIO()
    figure.savefig(buffer, dpi=100)
    Image.open(buffer).convert("RGB").quantize(128).save(path, optimize=True)


PICTURES = {
    "same_segmentation": same_segmentation,
    "touched_voxels": touched_voxels,
    "gradients": gradients,
    "pooled": pooled,
    "pitfalls": pitfalls,
}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        save(draw(), FOLDER / f"{name}.png")
