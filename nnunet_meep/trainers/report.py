"""Lines for nnU-Net's log: on each epoch, and on a loss that stops the training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from nnunet_meep.losses.regularized import TERMS, LossParts
from nnunet_meep.trainers.grammar import Experiment


def epoch_lines(
    experiment: Experiment, values: Mapping[str, Any], *, has_free_patches: bool
) -> list[str]:
    """The log lines of an epoch.

    Args:
        experiment: the one that is trained.
        values: the values logged for the epoch, with the keys of :mod:`.progress`.
        has_free_patches: whether some validation patches are not centred on foreground.
    """
    lines = [f"segmentation_loss {values['segmentation_loss']:.4f}"]
    if term := experiment.active_term:
        sign = "+" if TERMS[term][1] > 0 else "-"
        lines[0] += f" {sign} {values['lambda']:g} * {term} {values['term_value']:.4f}"
    lines.append(
        f"misclassified {values['misclassified']:.3%} of the voxels, with entropy "
        f"{values['misclassified_entropy']:.3f} of log K"
    )
    if math.isnan(values["mean_fg_ece"]):
        reason = (
            "no voxel of the validation patches has a label and a probability"
            if has_free_patches
            else "nnU-Net centres all validation patches on foreground, or any at random, so they "
            "say nothing of whole images"
        )
        lines.append(f"No pseudo ECE, Brier and unexpected errors: {reason}")
    else:
        for key, name in (("ece", "Pseudo ECE"), ("brier", "Pseudo Brier")):
            rounded = [round(x, 5) for x in values[f"{key}_per_class_or_region"]]
            lines.append(f"{name} {rounded}")
        share = round(values["unexpected_errors"], 3) + 0.0  # no -0.0
        lines.append(f"Unexpected errors {share:.3f}")
    if experiment.auto:
        lines.append(
            f"lambda {values['lambda']:.4g}: expects {values['average_expected']:.3%} errors and "
            f"makes {values['average_errors']:.3%} (averages), unexpected share "
            f"{values['average_unexpected']:.3f}"
        )
    return lines


def not_finite(
    loss: float,
    parts: LossParts | None,
    term: str | None,
    weight: float,
    batch: Mapping[str, Any],
    *,
    epoch: int,
    iteration: int,
    go_on: str,
) -> str:
    """The message for a training that stops because its loss is not finite.

    Args:
        loss: the loss of the batch.
        parts: the parts of this loss, if known.
        term, weight: the experiment's term, and lambda.
        batch: nnU-Net's batch: ``data`` and, from its own loaders, ``keys``.
        epoch, iteration: from 0.
        go_on: how to go on, see :func:`.checkpoints.go_on_from`.
    """
    said = ""
    if parts is not None:
        said = f": segmentation loss {float(parts.segmentation):g}"
        if term:
            said += f" and {term} {float(parts.term):g} (lambda {weight:g})"
    finite = "finite" if torch.isfinite(batch["data"]).all() else "not finite"
    cases = f" (cases {', '.join(map(str, batch['keys']))})" if "keys" in batch else ""
    return (
        f"the loss is {float(loss):g} in epoch {epoch}, iteration {iteration}{said}; the images of "
        f"the batch are {finite}{cases}; {go_on}"
    )
