"""The table of one evaluation names the classes that are not segmented at all."""

from __future__ import annotations

import numpy as np
from predictions import softmax_case

from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.evaluation.report import text as report


def test_a_class_that_is_nowhere_segmented_is_a_line(make_folder) -> None:
    folder, rng = make_folder(), np.random.default_rng(0)
    for i in range(5):
        p, reference = softmax_case(rng, (5, 6, 7))
        p[2] *= 1e-3  # never the largest
        reference[reference == 2] = 2 * (i < 3)
        folder.add(f"c{i}", p / p.sum(axis=0), reference)
    collapsed = evaluate(folder.gt, folder.pred, rois=["image", "boundary:1"])
    for part in report.table(collapsed).split("\n\n"):
        lines = [line for line in part.splitlines() if line.startswith("Not segmented")]
        assert lines == ["Not segmented: 2 Posterior (Dice 0 in all 3 cases that have it)"]


def test_one_case_is_said_as_one(make_folder) -> None:
    folder = make_folder()
    p, reference = softmax_case(np.random.default_rng(0), (5, 6, 7))
    p[2] *= 1e-3
    folder.add("c", p / p.sum(axis=0), reference)
    table = report.table(evaluate(folder.gt, folder.pred))
    assert "Not segmented: 2 Posterior (Dice 0 in the one case that has it)" in table


def test_a_class_that_is_segmented_once_or_that_no_reference_has_is_no_line(make_folder) -> None:
    folder, rng = make_folder(), np.random.default_rng(0)
    for i in range(3):
        p, reference = softmax_case(rng, (5, 6, 7))
        p[1] *= 1 if i == 1 else 1e-3
        p[2] *= 1e-3
        reference[reference == 2] = 0
        folder.add(f"c{i}", p / p.sum(axis=0), reference)
    assert "Not segmented" not in report.table(evaluate(folder.gt, folder.pred))
