"""The folder of a comparison: how many cases are shown, and what is refused beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from predictions import softmax_case

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.compare import compare
from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.evaluation.report import comparison_report
from nnunet_meep.evaluation.report.comparison_report import write_comparison_report

pytestmark = pytest.mark.usefixtures("unrendered")


@pytest.fixture
def comparison(make_folder):
    folder, rng = make_folder(), np.random.default_rng(0)
    for case in "abcdefg":
        folder.add(case, *softmax_case(rng, (3, 4, 5)))
    return compare({"m": evaluate(folder.gt, folder.pred, surface=False)})


def test_slices_of_as_many_worst_cases_as_are_asked_for(comparison, tmp_path) -> None:
    paths, lines = write_comparison_report(comparison, tmp_path / "out", n_worst=2)
    assert lines == []
    slices = {path.stem for path in paths if path.parent.name == "slices"}
    assert len(slices) == 2
    text = (tmp_path / "out" / "report.html").read_text()
    assert all(f'class="case-pictures" data-case="{case}"' in text for case in slices)


def test_cases_that_would_make_the_page_too_large_are_named(
    comparison, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(comparison_report, "_MOST_BYTES", 1)
    _, (line,) = write_comparison_report(comparison, tmp_path / "out")
    assert line.startswith("no pictures in report.html, to keep it small: ")
    text = (tmp_path / "out" / "report.html").read_text()
    assert line in text
    assert "Pictures are of 0 of 7 cases" in text


def test_curves_of_another_model_are_refused_before_anything_is_written(
    comparison, tmp_path
) -> None:
    with pytest.raises(InputError, match="curves: expected those of the models m, got other"):
        write_comparison_report(comparison, tmp_path / "out", curves={"other": []})
    assert not (tmp_path / "out").exists()
