"""What each metric is called, how it is printed, and what it is in one sentence, for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    """How a metric is shown.

    Attributes:
        name: without the unit.
        unit: in which values are printed; "" if there is none.
        digits: after the decimal point.
        scale: factor from the metric to that unit.
        definition: what it is, and which values are good.
    """

    name: str
    unit: str
    digits: int
    scale: float
    definition: str

    @property
    def text(self) -> str:
        """Name and unit."""
        return f"{self.name} {self.unit}".rstrip()

    def number(self, value: float, sign: str = "") -> str:
        """A value in the unit of the heading; ``sign="+"`` shows that of positive ones, too."""
        # What rounds to zero has no sign of its own: -0.0 + 0.0 is 0.0.
        return format(round(value * self.scale, self.digits) + 0.0, f"{sign}.{self.digits}f")


_LOWER = "Lower is better."
HEADINGS: dict[str, Heading] = {
    "dice": Heading(
        "Dice",
        "",
        3,
        1,
        "Overlap of nnU-Net's segmentation with the reference, 2 TP / (2 TP + FP + FN). Undefined "
        "where both are empty. Higher is better.",
    ),
    "hd": Heading(
        "HD",
        "mm",
        2,
        1,
        "Hausdorff distance: the largest distance between the two surfaces, of the whole image. "
        f"Undefined where one is empty. {_LOWER}",
    ),
    "hd95": Heading(
        "HD95",
        "mm",
        2,
        1,
        f"95th percentile of the distances between the two surfaces, of the whole image. {_LOWER}",
    ),
    "assd": Heading(
        "ASSD",
        "mm",
        2,
        1,
        f"Mean distance between the two surfaces, of the whole image. {_LOWER}",
    ),
    "brier": Heading(
        "Brier",
        "e-4",
        2,
        1e4,
        "Mean of (p - y)^2 over the voxels; p is the probability of the class, y whether it is "
        f"there (Brier 1950). {_LOWER}",
    ),
    "brier_plus": Heading(
        "Brier+",
        "",
        3,
        1,
        "The Brier score over the voxels of the class alone, which background cannot swamp "
        f"(Wallace & Dahabreh 2014). {_LOWER}",
    ),
    "brier_minus": Heading(
        "Brier-",
        "e-4",
        2,
        1e4,
        f"The Brier score over all voxels that are not of the class. {_LOWER}",
    ),
    "nll": Heading(
        "NLL",
        "e-3",
        2,
        1e3,
        "Negative log-likelihood: mean of -log p where the class is there and of -log(1 - p) where "
        f"it is not; p is clipped to [1e-12, 1 - 1e-12]. {_LOWER}",
    ),
    "ece": Heading(
        "ECE",
        "e-3",
        2,
        1e3,
        "Expected calibration error: how far observed frequency and mean probability are apart in "
        "bins of equal width, weighted by voxels (Naeini et al. 2015). Of all classes: of the "
        f"largest probability against being right. {_LOWER}",
    ),
    "mce": Heading(
        "MCE", "", 3, 1, f"The largest of the distances of which the ECE is the mean. {_LOWER}"
    ),
    "ace": Heading(
        "ACE", "", 3, 1, f"Their plain mean over bins, not weighted by voxels. {_LOWER}"
    ),
    "ece_adaptive": Heading(
        "adaptive ECE",
        "e-3",
        2,
        1e3,
        f"The ECE with bins that hold equally many voxels (Nixon et al. 2019). {_LOWER}",
    ),
    "ece_l2_debiased": Heading(
        "debiased L2 ECE",
        "e-3",
        2,
        1e3,
        "Root mean squared calibration error, bins of equal mass, without its bias "
        f"(Kumar et al. 2019). {_LOWER}",
    ),
    "smece": Heading(
        "smECE",
        "e-3",
        2,
        1e3,
        f"Smooth calibration error, which needs no bins (Błasiok & Nakkiran 2023). {_LOWER}",
    ),
    "volume_true_ml": Heading("true volume", "ml", 2, 1, "Volume of the class in the reference."),
    "volume_pred_ml": Heading(
        "segmented volume", "ml", 2, 1, "Volume of the class in nnU-Net's segmentation."
    ),
    "volume_expected_ml": Heading(
        "expected volume",
        "ml",
        2,
        1,
        "Voxel volume times the sum of the probabilities: the true volume, if they can be trusted.",
    ),
    "accuracy": Heading("accuracy", "%", 3, 1e2, "Share of right voxels. Higher is better."),
    "aurc": Heading(
        "AURC",
        "e-3",
        2,
        1e3,
        "Area under the risk-coverage curve: mean error rate among the n most confident voxels, "
        f"over all n (Geifman & El-Yaniv 2017). Are the wrong voxels the unsure ones? {_LOWER}",
    ),
    "error_rate": Heading("errors", "%", 3, 1e2, f"Share of wrong voxels. {_LOWER}"),
    "error_rate_expected": Heading(
        "expected errors",
        "%",
        3,
        1e2,
        "Mean of 1 - largest probability: the share of wrong voxels that the network expects. Near "
        "the actual one is good.",
    ),
    "error_rate_ratio": Heading(
        "expected / actual",
        "",
        2,
        1,
        "Expected over actual errors. 1 is right; below 1 the network is overconfident.",
    ),
    "classwise_ece": Heading(
        "classwise ECE",
        "e-3",
        2,
        1e3,
        f"Mean of the ECE over all classes, background too. {_LOWER}",
    ),
}

#: What tables show of a class, and of the top label; the report and the CSV have all.
CLASS_TABLE = ("dice", "hd", "hd95", "brier", "brier_plus", "nll", "ece", "smece")
TOP_LABEL_TABLE = ("ece", "aurc", "error_rate", "error_rate_expected", "error_rate_ratio")
