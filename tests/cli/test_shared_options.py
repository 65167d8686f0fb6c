"""The same thing has the same flag in every command that takes it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from predictions import LABELS, PredictionFolder, softmax_case

from nnunet_meep.cli import calib_compare, calib_eval, calib_fit

pytestmark = pytest.mark.usefixtures("unrendered")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = PredictionFolder(tmp_path_factory.mktemp("options"), LABELS), np.random
    for i, case in enumerate("abc"):
        folder.add(case, *softmax_case(rng.default_rng(i), (5, 6, 7)))
    return folder


def evaluated(folder, out, *arguments):
    quick = ["-o", str(out), "-np", "1", "--no-surface"]
    assert calib_eval.main([*map(str, arguments), *quick]) == 0
    return json.loads((out / "calibration.json").read_text())


def test_references_come_first_or_with_their_flag(folder, tmp_path) -> None:
    first = evaluated(folder, tmp_path / "first", folder.gt, folder.pred)
    flag = evaluated(folder, tmp_path / "flag", folder.pred, "--gt", folder.gt)
    del first["origin"], flag["origin"]
    assert first == flag
    for name, arguments in (
        ("first", [folder.gt, folder.pred]),
        ("flag", [folder.pred, "--gt", folder.gt]),
    ):
        path = tmp_path / f"{name}.json"
        assert calib_fit.main(["temperature", *map(str, arguments), "-o", str(path)]) == 0
    assert (tmp_path / "first.json").read_text() == (tmp_path / "flag.json").read_text()


class TestCases:
    def test_evaluated_are_those_and_the_result_knows_it(self, folder, tmp_path) -> None:
        out = folder.pred / "calibration"
        result = evaluated(folder, out, folder.gt, folder.pred, "--cases", "c", "a")
        assert [case["case"] for case in result["cases"]] == ["a", "c"]
        assert result["settings"]["cases"] == ["a", "c"]
        # b is no new case of it.
        assert calib_compare.main([f"m={folder.pred}", "-o", str(tmp_path), "--no-surface"]) == 0
        again = json.loads((out / "calibration.json").read_text())
        assert again == result

    def test_a_calibrator_is_fitted_to_those(self, folder, tmp_path) -> None:
        path = tmp_path / "c.json"
        arguments = ["platt", folder.gt, folder.pred, "-o", path, "--cases", "b"]
        assert calib_fit.main([*map(str, arguments)]) == 0
        fitted_on = json.loads(path.read_text())["fitted_on"]
        assert [case["case"] for case in fitted_on["cases"]] == ["b"]

    def test_compared_are_those(self, folder, tmp_path) -> None:
        evaluated(folder, tmp_path / "all", folder.gt, folder.pred)
        arguments = [f"m={tmp_path / 'all'}", "-o", str(tmp_path / "o"), "--cases", "b", "a"]
        assert calib_compare.main(arguments) == 0
        result = json.loads((tmp_path / "o" / "comparison.json").read_text())
        assert result["cases"] == ["a", "b"]

    def test_one_that_is_not_there_is_one_line(self, folder, tmp_path, capsys) -> None:
        evaluated(folder, tmp_path / "all", folder.gt, folder.pred)
        out = str(tmp_path / "o")
        for main, arguments in (
            (calib_eval.main, [folder.gt, folder.pred, "-o", out]),
            (calib_fit.main, ["platt", folder.gt, folder.pred, "-o", f"{out}.json"]),
            (calib_compare.main, [f"m={tmp_path / 'all'}", "-o", out]),
        ):
            capsys.readouterr()
            assert main([*map(str, arguments), "--cases", "a", "z"]) == 1
            (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
            assert line.startswith("Error: ")
            assert "z" in line.split("expected")[1]


class TestCountingInAComparison:
    def test_results_with_other_bins_are_evaluated_again(self, folder, tmp_path, capsys) -> None:
        out = tmp_path / "kept"
        evaluated(folder, out, folder.gt, folder.pred)
        arguments = [f"m={out}", "-o", str(tmp_path / "o"), "-np", "1", "--no-surface"]
        capsys.readouterr()
        assert calib_compare.main([*arguments, "--bins", "5"]) == 0
        assert "bins was 15, not 5: evaluated again" in capsys.readouterr().err
        assert json.loads((out / "calibration.json").read_text())["settings"]["bins"] == 5
        assert calib_compare.main(arguments) == 0  # without --bins as the result has them
        assert "evaluated again" not in capsys.readouterr().err

    def test_results_of_another_tolerance_are_evaluated_again(
        self, folder, tmp_path, capsys
    ) -> None:
        out = tmp_path / "kept"
        evaluated(folder, out, folder.gt, folder.pred)
        arguments = [f"m={out}", "-o", str(tmp_path / "o"), "-np", "1", "--tolerance"]
        capsys.readouterr()
        assert calib_compare.main([*arguments, "2"]) == 0
        assert "evaluated again" not in capsys.readouterr().err
        assert calib_compare.main([*arguments, "0.5"]) == 0
        assert "tolerance_mm was 2.0, not 0.5: evaluated again" in capsys.readouterr().err

    @pytest.mark.parametrize("flag", [["--bins", "5"], ["--tolerance", "3"], ["--no-surface"]])
    def test_stored_results_are_not_counted_again(self, folder, tmp_path, capsys, flag) -> None:
        arguments = [f"m={folder.pred}", "-o", str(tmp_path), "--as-stored", *flag]
        assert calib_compare.main(arguments) == 1
        assert f"Error: {flag[0]}: expected none with --as-stored" in capsys.readouterr().err
