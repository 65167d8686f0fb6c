"""What is drawn: the numbers in the artists, not the pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from predictions import softmax_case

from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.evaluation.metrics import reliability_band
from nnunet_meep.evaluation.plots import (
    merged_bins,
    new_axes,
    plot_agreement,
    plot_histogram,
    plot_reliability,
)


@pytest.fixture
def evaluation(make_folder):
    folder, rng = make_folder(), np.random.default_rng(0)
    for case in "abc":
        folder.add(case, *softmax_case(rng, (6, 7, 8)))
    return evaluate(folder.gt, folder.pred, surface=False, regions=["image", "boundary:1"])


def bins(count, mean_p, mean_y):
    edges = np.linspace(0, 1, len(count) + 1).tolist()
    return {"edges": edges, "count": count, "mean_p": mean_p, "mean_y": mean_y}


def line(ax, label):
    (found,) = [artist for artist in ax.get_lines() if artist.get_label() == label]
    return found


def test_the_line_goes_through_the_bins_with_voxels() -> None:
    ax = new_axes()
    plot_reliability(ax, bins([4, 0, 6], [0.1, np.nan, 0.9], [0.3, np.nan, 0.8]))
    assert line(ax, "all cases").get_xydata().tolist() == [[0.1, 0.3], [0.9, 0.8]]
    assert line(ax, "perfectly calibrated").get_xydata().tolist() == [[0, 0], [1, 1]]
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert len(ax.collections) == 0  # no band of one case


def test_models_laid_over_each_other_share_one_diagonal() -> None:
    ax = new_axes()
    for label, color in (("a", "C0"), ("b", "C1")):
        plot_reliability(ax, bins([1], [0.5], [0.4]), label=label, color=color)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["perfectly calibrated", "a", "b"]


def test_the_band_holds_what_drawing_cases_anew_gives() -> None:
    rng = np.random.default_rng(0)
    count = rng.integers(1, 50, (9, 4))
    count[:, 2] = 0
    count[0, 1] = 0
    mean_y = np.where(count, rng.random((9, 4)), np.nan)
    cases = [bins(n.tolist(), n.tolist(), y.tolist()) for n, y in zip(count, mean_y, strict=True)]
    low, high = reliability_band(cases)
    drawn = rng.integers(0, 9, (20_000, 9))
    n, y = count[drawn].sum(axis=1), np.nan_to_num(mean_y * count)[drawn].sum(axis=1)
    for b in (0, 1, 3):
        expected = np.percentile(y[:, b] / n[:, b], [2.5, 97.5])
        assert [low[b], high[b]] == pytest.approx(expected, abs=0.02)
    assert np.isnan([low[2], high[2]]).all()


def test_one_object_gives_numbers_and_pictures(evaluation) -> None:
    frame = evaluation.to_dataframe()
    assert frame[["case", "region", "class"]].drop_duplicates().shape[0] == len(frame) == 3 * 2 * 3
    of_case = evaluation.cases[1].regions["boundary:1"].classes["2"]
    row = frame.query("case == 'b' and region == 'boundary:1' and `class` == '2'").iloc[0]
    assert row["ece"] == of_case["ece"]
    assert row["name"] == "Posterior"
    assert np.isnan(row["aurc"])

    ax = evaluation.plot_reliability("2", region="boundary:1")
    pooled = evaluation.pooled["boundary:1"].bins["2"]
    filled = np.array(pooled["count"]) > 0
    drawn = line(ax, "all cases").get_ydata()
    assert drawn == pytest.approx(np.array(pooled["mean_y"])[filled])
    assert len(ax.get_lines()) == 1 + 3 + 1  # the diagonal, three cases, all of them
    assert evaluation.plot_reliability("top_label", ax=ax) is ax


def test_a_picture_of_no_class_is_a_key_error(evaluation) -> None:
    with pytest.raises(KeyError):
        evaluation.plot_reliability("7")


def test_a_histogram_without_voxels_says_so() -> None:
    ax = new_axes()
    plot_histogram(ax, bins([0, 0], [np.nan] * 2, [np.nan] * 2))
    assert [text.get_text() for text in ax.texts] == ["no voxels"]


def test_matplotlib_settings_are_not_touched(evaluation, tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    evaluation.plot_reliability().figure.savefig(tmp_path / "a.svg")
    assert dict(mpl.rcParams) == before


def test_expected_and_actual_share_their_limits_and_one_diagonal() -> None:
    ax = new_axes()
    plot_agreement(ax, [1.0, 2.0], [1.5, np.nan], label="a")
    plot_agreement(ax, [1.0, 3.0], [8.0, 1.0], label="b", color="C1")
    assert ax.get_xlim() == ax.get_ylim() == (0, pytest.approx(8.4))
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["as expected", "a", "b"]
    assert line(ax, "b").get_xydata().tolist() == [[1, 8], [3, 1]]


def test_nothing_to_expect_is_drawn_without_a_warning() -> None:
    ax = new_axes()
    plot_agreement(ax, [np.nan], [np.nan], label="a")
    ax.figure.canvas.draw()


def test_bins_of_two_results_merge_into_those_of_all_their_voxels() -> None:
    a = bins([2, 0, 1], [0.1, None, 0.9], [0.5, None, 1.0])
    b = bins([6, 0, 0], [0.3, None, None], [0.25, None, None])
    merged = merged_bins([a, b])
    assert merged["count"] == [8, 0, 1]
    assert merged["mean_p"] == pytest.approx([0.25, np.nan, 0.9], nan_ok=True)
    assert merged["mean_y"] == pytest.approx([2.5 / 8, np.nan, 1.0], nan_ok=True)
