"""Lesions in pictures, tables and the page: the numbers are those of their components."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from markupsafe import escape
from predictions import PredictionFolder

from nnunet_meep.evaluation.compare import compare
from nnunet_meep.evaluation.counting.components import Components, Lesions
from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.evaluation.report import page
from nnunet_meep.evaluation.report.comparison_pictures import comparison_pictures
from nnunet_meep.evaluation.report.comparison_tables import markdown, terminal
from nnunet_meep.evaluation.report.lesion_pictures import (
    LesionLayer,
    by_confidence,
    froc_figure,
    lesion_reliability_figure,
)
from nnunet_meep.evaluation.report.lesion_tables import (
    LESION_HEAD,
    WRONG_HEAD,
    compared_lesions,
    wrong_lesions,
)

#: Two right ones at .9 and .6 and a false one at .7, of three lesions.
CASE = Lesions(
    Components([8.0, 4.0, 6.0], [[0, 0, 0]] * 3, [0, 2, None]),
    Components([8.0, 5.0, 4.0], [[0, 0, 0]] * 3, [0, None, 1]),
    [1.0, 0.5, 0.0],
    [0.9, 0.6, 0.7],
    [1.0, 0.95, 0.75],
)
NASTY = '<b onclick="alert(1)">$x$'


def lines(ax):
    return {line.get_label(): line.get_xydata().tolist() for line in ax.get_lines()}


def test_a_curve_begins_with_no_lesion_and_ends_with_all() -> None:
    figure = froc_figure({"class": by_confidence([CASE, CASE])}, "title")
    (ax,) = figure.axes
    found = lines(ax)
    assert found["mean probability"] == [[0, 0], [0, 1 / 3], [1, 1 / 3], [1, 2 / 3]]
    assert found["largest probability"] == [[0, 0], [0, 1 / 3], [0, 2 / 3], [1, 2 / 3]]
    assert "expected Dice" not in found  # the same as by the mean
    assert ax.get_xlim() == (0, 1.05)


def test_reliability_is_of_lesions_and_says_of_which_confidence() -> None:
    layer = LesionLayer("model", [[CASE], [CASE]])
    figure = lesion_reliability_figure({"class": [layer]}, "title", 5)
    diagram, histogram = figure.axes
    # (.4, .6]: right; (.6, .8]: false; (.8, 1]: right.
    expected = [[0.6, 1.0], [0.7, 0.0], [0.9, 1.0]]
    assert lines(diagram)["model"] == [pytest.approx(point) for point in expected]
    assert len(diagram.collections) == 1  # the band over two cases
    assert histogram.get_xlabel() == "confidence: mean probability"
    assert histogram.get_ylabel() == "share of lesions"
    all_three = lesion_reliability_figure({"class": by_confidence([CASE, CASE])}, "title", 5)
    assert len(all_three.axes[0].collections) == 1  # of the first one alone
    assert all_three.axes[1].get_xlabel() == "confidence"


def test_the_band_is_over_cases_however_often_they_were_predicted() -> None:
    other = replace(CASE, mean_p=[0.9, 0.9, 0.7])
    bands = []
    for n_trainings in (1, 3):
        layer = LesionLayer("model", [[CASE] * n_trainings, [other] * n_trainings])
        diagram = lesion_reliability_figure({"class": [layer]}, "title", 5).axes[0]
        bands.append(diagram.collections[0].get_paths()[0].vertices.tolist())
    np.testing.assert_allclose(*bands)


@pytest.mark.parametrize("n_true", [0, 2])
def test_pictures_of_nothing_are_drawn(n_true) -> None:
    none, some = Components([], [], []), Components([1.0] * 2, [[0, 0, 0]] * 2, [None] * 2)
    case = Lesions(none, some if n_true else none, [], [], [])
    layers = {"class": by_confidence([case, case])}
    assert lines(froc_figure(layers, "title").axes[0])["mean probability"] == [[0, 0]]
    _, histogram = lesion_reliability_figure(layers, "title", 5).axes
    assert histogram.texts[0].get_text() == "no lesions"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Two models; the first was trained twice, and both trainings have the same lesions."""
    models = {}
    for name, shift in (("default", 1), (NASTY, 0)):
        folder = PredictionFolder(
            tmp_path_factory.mktemp("model"), {"background": 0, "WMH": 1, "ignore": 2}
        )
        for case in ("a", "b"):
            reference = np.zeros((3, 6, 8), np.uint8)
            reference[0, :2, :2] = reference[2, 4:, 5:] = 1
            p = np.full((2, 3, 6, 8), 0.1, np.float32)
            p[1, 0, :2, shift : shift + 2] = p[1, 1, 4:, :2] = 0.8
            p[1, 1, 4:, 1] = 0.6
            p[0] = 1 - p[1]
            folder.add(case, p, reference, (2.0, 1.0, 1.0))
        models[name] = evaluate(folder.gt, folder.pred, surface=False, lesions=0)
    return compare({"default": [models["default"]] * 2, NASTY: models[NASTY]})


def test_tables_are_pooled_over_cases_and_trainings(comparison) -> None:
    head, default, other = compared_lesions(comparison, "1")
    assert head == ["model", *LESION_HEAD]
    assert default[:5] == ["default", "8", "8", "4", "0.500"]
    assert other[:5] == [NASTY, "4", "4", "2", "0.500"]
    assert dict(zip(head, other, strict=True))["false per scan"] == "1.0"
    # The right ones are at .8 and the false ones at a mean of .7.
    assert dict(zip(head, default, strict=True))["AP, mean p"] == "0.500"
    assert dict(zip(head, default, strict=True))["ECE, mean p"] == "0.450"


def test_the_largest_wrong_ones_are_listed_with_their_place(comparison) -> None:
    rows = [dict(zip(WRONG_HEAD, row, strict=True)) for row in wrong_lesions(comparison, "1")]
    assert len(rows) == 2 * 2 * 2  # models, cases, false and missed
    assert rows[0] == {
        **{"model": "default", "case": "a", "lesion": "false", "size": "8.0"},
        **{"mean p": "0.700", "largest p": "0.800", "centre (x, y, z)": "0, 4, 1"},
    }
    assert rows[2] == {
        **{"model": "default", "case": "a", "lesion": "missed", "size": "12.0"},
        **{"mean p": "-", "largest p": "-", "centre (x, y, z)": "6, 4, 2"},
    }


def test_every_output_has_them(comparison) -> None:
    pictures = comparison_pictures(comparison)
    assert list(pictures)[-2:] == ["froc", "lesion_reliability"]
    found = lines(pictures["froc"].draw(["1"], "").axes[0])
    assert found["default"] == [[0, 0], [0, 0.5], [1, 0.5]]
    text = page.render(comparison, pictures, [], [], {})
    assert '<section id="lesions">' in text
    assert str(escape(NASTY)) in text
    assert NASTY not in text
    assert '<button class="case">b</button>' in text
    for made in (terminal(comparison), markdown(comparison), text):
        assert "ll lesions in whole images, matched one to one" in made
        assert "WMH challenge lesion F1" in made


def test_none_are_shown_unless_all_models_have_them(comparison) -> None:
    trainings = comparison.evaluations[NASTY]
    cases = [replace(case, lesions=None) for case in trainings[0].cases]
    evaluations = {**comparison.evaluations, NASTY: (replace(trainings[0], cases=cases),)}
    less = replace(comparison, evaluations=evaluations)
    pictures = comparison_pictures(less)
    assert "froc" not in pictures
    assert '<section id="lesions">' not in page.render(less, pictures, [], [], {})
    assert "matched one to one" not in terminal(less)
