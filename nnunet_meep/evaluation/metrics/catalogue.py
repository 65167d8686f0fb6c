"""The catalogue of metrics: the name, definition and unit of each, and which values are good.

Each metric of ``calibration.json`` has one entry here, in the order of the tables. Tables,
``--help``, the HTML page, the comparison of models and the documentation all read this catalogue.
"""

from __future__ import annotations

from nnunet_meep.evaluation.metrics.metric import Better, Metric, Of, Unit

_EVERY = (Of.CLASS, Of.TOP_LABEL)
_ERRORS = (Of.REGION, Of.TOP_LABEL)
_SCORES = "evaluation.metrics.scores.class_metrics"
_SURFACE = "evaluation.counting.surface.surface_metrics"
_LESIONS = "evaluation.metrics.lesions.lesion_metrics"
_WMH = "evaluation.counting.wmh_challenge.challenge_figures"
_BINNED = "evaluation.metrics.calibration.binned_metrics"
_EQUAL_MASS = "evaluation.metrics.calibration.equal_mass_metrics"
_TOP_LABEL = "evaluation.metrics.scores.top_label_metrics"
_OF_ERRORS = "evaluation.metrics.scores.error_metrics"
_MM, _ML, _E3, _E4 = Unit("mm", 2), Unit("ml", 2), Unit("e-3", 2, 1e3), Unit("e-4", 2, 1e4)
_PERCENT = Unit("%", 3, 1e2)

CATALOGUE: dict[str, Metric] = {
    "dice": Metric(
        "Dice",
        "Overlap of nnU-Net's segmentation with the reference, 2 TP / (2 TP + FP + FN); undefined "
        "where both are empty.",
        Better.HIGHER,
        function=_SCORES,
    ),
    "precision": Metric(
        "precision",
        "Share of the segmented voxels that are right, TP / (TP + FP); undefined where nothing is "
        "segmented.",
        Better.HIGHER,
        function=_SCORES,
    ),
    "recall": Metric(
        "recall",
        "Share of the class's voxels in the reference that are segmented, TP / (TP + FN); "
        "undefined where the reference has none.",
        Better.HIGHER,
        function=_SCORES,
    ),
    "hd": Metric(
        "HD",
        "Hausdorff distance: the largest distance between the two surfaces, of the whole image; "
        "undefined where one is empty.",
        function=_SURFACE,
        unit=_MM,
    ),
    "hd95": Metric(
        "HD95",
        "95th percentile of the distances between the two surfaces, of the whole image.",
        function=_SURFACE,
        unit=_MM,
    ),
    "assd": Metric(
        "ASSD",
        "Mean distance between the two surfaces, of the whole image.",
        function=_SURFACE,
        unit=_MM,
    ),
    "nsd": Metric(
        "NSD",
        "Normalised surface Dice (Nikolov et al. 2018): share of the surface voxels of both masks "
        "that are at most --tolerance mm (tolerance_mm in the settings, usually 2) from the other "
        "surface, of the whole image; 0 where one is empty, undefined where both are. Voxels are "
        "counted, as in MONAI; DeepMind's code weights them by surface area.",
        Better.HIGHER,
        function=_SURFACE,
    ),
    "lesion_f1": Metric(
        "lesion F1",
        "2 TP / (2 TP + FP + FN) over lesions, the connected components (26 neighbours, in 2D 8) "
        "of at least the size of --lesions, of the whole image. TP are pairs of a segmented lesion "
        "and one of the reference, each in one pair at most, with an intersection over union of at "
        "least 0.1, the largest first (Kofler et al. 2023; the threshold of Baumgartner et al. "
        "2021). Undefined where there is none in both.",
        Better.HIGHER,
        function=_LESIONS,
    ),
    "lesion_precision": Metric(
        "lesion precision",
        "Share of the segmented lesions that are in a pair; undefined where there are none.",
        Better.HIGHER,
        function=_LESIONS,
    ),
    "lesion_recall": Metric(
        "lesion recall",
        "Share of the lesions of the reference that are in a pair; undefined where there are none.",
        Better.HIGHER,
        function=_LESIONS,
    ),
    "lesions_true": Metric(
        "true lesions",
        "Number of lesions of the reference.",
        Better.NEITHER,
        function=_LESIONS,
        unit=Unit(digits=1),
    ),
    "lesions_pred": Metric(
        "segmented lesions",
        "Number of lesions of the segmentation.",
        Better.NEITHER,
        function=_LESIONS,
        unit=Unit(digits=1),
    ),
    "wmh_dsc": Metric(
        "WMH challenge DSC",
        "Dice as the WMH Segmentation Challenge 2017 computes it (Kuijf et al. 2019), like the "
        "following: other pathology, label 2 of the reference, is taken out first. For data sets "
        "with its labels, WMH = 1 and ignore = 2.",
        Better.HIGHER,
        function=_WMH,
    ),
    "wmh_h95": Metric(
        "WMH challenge H95",
        "95 % of one surface lie within this distance of the other; the larger value of both "
        "directions. Unlike HD95, the surface is that of each slice alone, 8 neighbours; undefined "
        "where there is none.",
        function=_WMH,
        unit=_MM,
    ),
    "wmh_avd": Metric(
        "WMH challenge AVD",
        "Difference between segmented and true volume over the true one; undefined where that is "
        "0.",
        function=_WMH,
        unit=Unit("%", 1),
    ),
    "wmh_recall": Metric(
        "WMH challenge lesion recall",
        "Share of the lesions of the reference of which any voxel is segmented; 1 where there are "
        "none. Unlike lesion recall, one segmented lesion may find several, and none is too small.",
        Better.HIGHER,
        function=_WMH,
    ),
    "wmh_f1": Metric(
        "WMH challenge lesion F1",
        "Harmonic mean of this recall and the share of the segmented lesions of which any voxel is "
        "in the reference; 0 where both are 0.",
        Better.HIGHER,
        function=_WMH,
    ),
    "dice_expected": Metric(
        "expected Dice",
        "The Dice that the network expects of its segmentation, without a reference: 2 sum(p s) / "
        "(sum(p) + sum(s)), where s is 1 at segmented voxels (Soft Dice Confidence, Borges et al. "
        "2024); undefined where nothing is segmented and sum(p) is below half a voxel.",
        Better.NEITHER,
        function=_SCORES,
    ),
    "dice_expected_error": Metric(
        "error of expected Dice",
        "Absolute difference between expected and actual Dice.",
        function=_SCORES,
    ),
    "brier": Metric(
        "Brier",
        "Mean of (p - y)^2 over the voxels; p is the probability of the class, y whether it is "
        "there (Brier 1950).",
        function=_SCORES,
        unit=_E4,
    ),
    "brier_plus": Metric(
        "Brier+",
        "The Brier score over the voxels of the class alone, which background cannot swamp "
        "(Wallace & Dahabreh 2014).",
        function=_SCORES,
    ),
    "brier_minus": Metric(
        "Brier-",
        "The Brier score over all voxels that are not of the class.",
        function=_SCORES,
        unit=_E4,
    ),
    "nll": Metric(
        "NLL",
        "Negative log-likelihood: mean of -log p where the class is there and of -log(1 - p) where "
        "it is not; p is clipped to [1e-12, 1 - 1e-12].",
        function=_SCORES,
        unit=_E3,
    ),
    "ece": Metric(
        "ECE",
        "Expected calibration error: how far observed frequency and mean probability are apart in "
        "bins of equal width, weighted by voxels (Naeini et al. 2015). For the predicted label the "
        "probability is the largest one, and the frequency is how often the label is right (Guo "
        "et al. 2017).",
        of=_EVERY,
        function=_BINNED,
        unit=_E3,
    ),
    "mce": Metric(
        "MCE",
        "Maximum calibration error: the largest difference between observed frequency and mean "
        "probability in any bin.",
        of=_EVERY,
        function=_BINNED,
    ),
    "ace": Metric(
        "average calibration error",
        "The mean over the bins of the difference between observed frequency and mean probability, "
        "without weights.",
        of=_EVERY,
        function=_BINNED,
    ),
    "ece_adaptive": Metric(
        "adaptive ECE",
        "The ECE with bins that hold equally many voxels (Nixon et al. 2019).",
        function=_EQUAL_MASS,
        unit=_E3,
    ),
    "ece_l2_debiased": Metric(
        "debiased L2 ECE",
        "Root mean squared calibration error, bins of equal mass, without its bias "
        "(Kumar et al. 2019).",
        function=_EQUAL_MASS,
        unit=_E3,
    ),
    "smece": Metric(
        "smECE",
        "Smooth calibration error, which needs no bins (Błasiok & Nakkiran 2023).",
        function="evaluation.metrics.calibration.smooth_ece",
        unit=_E3,
    ),
    "volume_true_ml": Metric(
        "true volume",
        "Volume of the class in the reference.",
        Better.NEITHER,
        function=_SCORES,
        unit=_ML,
    ),
    "volume_pred_ml": Metric(
        "segmented volume",
        "Volume of the class in nnU-Net's segmentation.",
        Better.NEITHER,
        function=_SCORES,
        unit=_ML,
    ),
    "volume_expected_ml": Metric(
        "expected volume",
        "Voxel volume times the sum of the probabilities: the true volume, if they are right.",
        Better.NEITHER,
        function=_SCORES,
        unit=_ML,
    ),
    "volume_error_ml": Metric(
        "volume error",
        "Segmented minus true volume; near 0 is good.",
        Better.NEITHER,
        function=_SCORES,
        unit=_ML,
    ),
    "volume_error_abs_ml": Metric(
        "absolute volume error",
        "Absolute difference between segmented and true volume.",
        function=_SCORES,
        unit=_ML,
    ),
    "volume_expected_error_abs_ml": Metric(
        "absolute error of expected volume",
        "Absolute difference between expected and true volume.",
        function=_SCORES,
        unit=_ML,
    ),
    "aurc": Metric(
        "AURC",
        "Area under the risk-coverage curve: mean error rate among the n most confident voxels, "
        "over all n (Geifman & El-Yaniv 2017). Low if the errors are at uncertain voxels.",
        of=(Of.TOP_LABEL,),
        function="evaluation.metrics.risk_coverage.aurc_of_cells",
        unit=_E3,
    ),
    "accuracy": Metric(
        "accuracy",
        "Share of correctly classified voxels.",
        Better.HIGHER,
        (Of.TOP_LABEL,),
        function=_TOP_LABEL,
        unit=_PERCENT,
    ),
    "error_rate": Metric(
        "errors", "Share of wrong voxels.", of=_ERRORS, function=_OF_ERRORS, unit=_PERCENT
    ),
    "error_rate_expected": Metric(
        "expected errors",
        "Mean of 1 - largest probability: the share of wrong voxels that the network expects. It "
        "should be near the actual share.",
        Better.NEITHER,
        _ERRORS,
        function=_OF_ERRORS,
        unit=_PERCENT,
    ),
    "error_rate_ratio": Metric(
        "expected / actual",
        "Expected over actual errors.",
        Better.NEAR_ONE,
        _ERRORS,
        function=_OF_ERRORS,
        unit=Unit(digits=2),
    ),
    "classwise_ece": Metric(
        "classwise ECE",
        "Mean of the ECE over all classes, background too.",
        of=(Of.TOP_LABEL,),
        function=_BINNED,
        unit=_E3,
    ),
}

#: The metrics in tables, for a class and for the top label; the HTML page and the CSV have all.
CLASS_TABLE = (*("dice", "lesion_f1", "hd", "hd95", "brier", "brier_plus", "nll", "ece", "smece"),)
#: The figures of the WMH challenge, in a table of their own.
WMH_TABLE = ("wmh_dsc", "wmh_h95", "wmh_avd", "wmh_recall", "wmh_f1")
TOP_LABEL_TABLE = ("ece", "aurc", "error_rate", "error_rate_expected", "error_rate_ratio")


def metrics_of(of: Of) -> tuple[str, ...]:
    """The keys of all metrics that are computed for ``of``."""
    return tuple(key for key, metric in CATALOGUE.items() if of in metric.of)
