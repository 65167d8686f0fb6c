"""Monitor calibration during training, by sums over the batches of an epoch.

Training patches give the segmentation loss and the term separately, the fraction of misclassified
voxels and their mean entropy. Validation patches give the expected calibration error, the Brier
score and the fraction of errors that the network does not expect. All are computed from the output
at full resolution and, like nnU-Net's pseudo Dice, on patches rather than whole images.

nnU-Net centres some of the validation patches on foreground. Errors are frequent there, so that
even a calibrated network would look overconfident: these patches are left out. The others
approximate the whole image; they cover its border less, and extend beyond it if the image is
smaller than the patch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from nnunet_meep.evaluation.counting.bins import bin_edges
from nnunet_meep.losses.regularized import LossParts
from nnunet_meep.losses.voxels import Voxels, entropy, voxels

#: As in ``meep-calib-eval``.
N_BINS = 15


class TrainingMonitor:
    """Sums over one epoch's batches, on the device of the logits; read once at its end.

    Args:
        n_classes: foreground classes, or regions, for which calibration is reported.
        ignore_label, regions: as in :mod:`nnunet_meep.losses.voxels`.
        device: of the logits.
    """

    def __init__(
        self, n_classes: int, *, ignore_label: int | None, regions: bool, device: torch.device
    ) -> None:
        self.n_classes = n_classes
        self.ignore_label = ignore_label
        self.regions = regions
        # float64 counts voxels exactly; Apple's devices do not have it.
        self.device = torch.device("cpu") if device.type == "mps" else device
        self._edges = torch.from_numpy(bin_edges(N_BINS)[1:]).to(self.device)
        self.start_training()
        self.start_validation()

    def start_training(self) -> None:
        """Discard the sums over training batches."""
        self.n_batches = 0
        self._parts = torch.zeros(2, dtype=torch.float64, device=self.device)
        self._errors = torch.zeros(3, dtype=torch.float64, device=self.device)

    def start_validation(self) -> None:
        """Discard the sums over validation batches."""
        self._error_sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        self._bins = torch.zeros(
            (self.n_classes, 3, N_BINS), dtype=torch.float64, device=self.device
        )
        self._squared = torch.zeros(self.n_classes, dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def add_training(self, logits: Tensor, target: Tensor, parts: LossParts) -> None:
        """Add a training batch: logits and target at full resolution, loss over all resolutions."""
        if parts.errors is None:
            v = self._voxels(logits, target)
            # 0 log 0 makes the entropy NaN; where() keeps it out of the sum.
            of_errors = torch.where(v.wrong, entropy(v.log_p), 0).sum(dtype=torch.float64)
            self._errors += torch.stack((v.valid.sum(), v.wrong.sum(), of_errors))
        else:
            self._errors += parts.errors.to(self.device)
        self._log_k = math.log(2 if self.regions else logits.shape[1])
        # Move before converting: Apple's devices cannot convert to float64.
        self._parts += torch.stack([part.to(self.device).double() for part in parts[:2]])
        self.n_batches += 1

    @torch.no_grad()
    def add_validation(self, logits: Tensor, target: Tensor) -> None:
        """Add the patches of a validation batch that were not forced onto foreground."""
        if not len(logits):
            return
        v = self._voxels(logits, target)
        confidence = v.log_p.amax(1).double().exp()
        self._error_sums += torch.stack(
            (v.valid.sum(), v.wrong.sum(), torch.where(v.valid, 1 - confidence, 0).sum())
        )
        for c in range(self.n_classes):
            if self.regions:
                p, y, valid = v.log_p[:, 1, c], v.label[:, c] == 1, v.valid[:, c]
            else:  # class 0 is the background
                p, y, valid = v.log_p[:, c + 1], v.label == c + 1, v.valid
            p, y = p[valid].double().exp(), y[valid].double()
            # The first edge >= p is the upper end of its bin (l, u], as in evaluation.counting.
            # Rounding may put p above 1, hence the clamp; a NaN makes the sums NaN.
            index = torch.bucketize(p, self._edges).clamp(max=N_BINS - 1)
            for row, weights in enumerate((torch.ones_like(p), p, y)):
                self._bins[c, row] += torch.bincount(index, weights, minlength=N_BINS)
            self._squared[c] += (p - y).square().sum()

    def training_values(self) -> dict[str, float]:
        """Means over the training batches of all ranks; NaN if there is nothing to average.

        - ``segmentation_loss``, ``term_value``: the parts of the loss, the term without lambda;
        - ``misclassified``: fraction of misclassified voxels (with regions, pairs of voxel and
          region);
        - ``misclassified_entropy``: their mean entropy / log K; 0 is certain, 1 is uniform.
        """
        n = torch.tensor([float(self.n_batches)], dtype=torch.float64, device=self.device)
        n_batches, segmentation, term, valid, wrong, of_errors = over_ranks(
            torch.cat((n, self._parts, self._errors))
        ).tolist()
        return {
            "segmentation_loss": _ratio(segmentation, n_batches),
            "term_value": _ratio(term, n_batches),
            "misclassified": _ratio(wrong, valid),
            "misclassified_entropy": _ratio(of_errors, wrong * self._log_k) if wrong else math.nan,
        }

    def validation_values(self) -> dict[str, list[float] | float]:
        """Calibration over the validation patches of all ranks; NaN without a voxel.

        - ``ece_per_class_or_region``, ``brier_per_class_or_region``: as in ``meep-calib-eval``,
          for each foreground class or region, over all patches together;
        - ``mean_fg_ece``, ``mean_fg_brier``: their means;
        - ``unexpected_errors``: 1 - mean(1 - max p) / mean(argmax != y);
        - ``validation_voxels``, ``validation_errors``, ``validation_expected_errors``: the sums it
          is computed from, see :class:`nnunet_meep.trainers.control.ErrorSums`.
        """
        bins = over_ranks(self._bins)
        squared = over_ranks(self._squared)
        valid, wrong, expected = over_ranks(self._error_sums).tolist()
        count, sum_p, sum_y = bins.unbind(1)
        n = count.sum(1)  # per class; 0 / 0 is NaN
        ece = ((sum_p - sum_y).abs().sum(1) / n).tolist()
        brier = (squared / n).tolist()
        return {
            "ece_per_class_or_region": ece,
            "mean_fg_ece": sum(ece) / len(ece),
            "brier_per_class_or_region": brier,
            "mean_fg_brier": sum(brier) / len(brier),
            "unexpected_errors": 1 - _ratio(expected, wrong) if valid else math.nan,
            "validation_voxels": valid,
            "validation_errors": wrong,
            "validation_expected_errors": expected,
        }

    def _voxels(self, logits: Tensor, target: Tensor) -> Voxels:
        return voxels(
            logits.to(self.device),
            target.to(self.device),
            ignore_label=self.ignore_label,
            regions=self.regions,
        )


def weighted_parts(parts: Sequence[LossParts], weights: Sequence[float]) -> LossParts:
    """The parts of a loss over several resolutions, weighted as nnU-Net weights them.

    The errors are those of the full resolution, which comes first.
    """
    pairs = list(zip(weights, parts, strict=True))
    return LossParts(
        sum((w * part.segmentation for w, part in pairs), torch.zeros(())),
        sum((w * part.term for w, part in pairs), torch.zeros(())),
        parts[0].errors,
    )


def over_ranks(sums: Tensor) -> Tensor:
    """The sums over all ranks. Every rank must call it."""
    if dist.is_available() and dist.is_initialized():
        sums = sums.clone()
        dist.all_reduce(sums)
    return sums


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan
