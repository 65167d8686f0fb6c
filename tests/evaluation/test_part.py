"""An evaluation in parts: the same result as in one run, and no part does another one's work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from predictions import softmax_case
from test_evaluate import refused

from nnunet_meep.cli.calib_eval import main
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting import cache, one_pass
from nnunet_meep.evaluation.part import Part

pytestmark = pytest.mark.usefixtures("unrendered")

QUICK = ("-np", "1", "--no-surface")


@pytest.fixture
def folder(make_folder):
    folder, rng = make_folder(), np.random.default_rng(11)
    for case in "abcde":
        folder.add(case, *softmax_case(rng, (4, 5, 6)))
    return folder


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The cases whose probabilities are read, in their order."""
    cases, sum_case = [], one_pass.sum_case

    def counted(case, *args):
        cases.append(case.name)
        return sum_case(case, *args)

    monkeypatch.setattr(one_pass, "sum_case", counted)
    return cases


def evaluated(folder, out: Path, *flags: str) -> None:
    assert main([str(folder.gt), str(folder.pred), "-o", str(out), *QUICK, *flags]) == 0


def content(out: Path) -> str:
    """``calibration.json`` as it is written, but for when."""
    text = (out / "calibration.json").read_text()
    written = json.loads(text)["origin"]["written"]
    assert text.count(written) == 1
    return text.replace(written, "")


def test_parts_and_a_last_run_have_the_result_of_one_run(folder, tmp_path, read, capsys) -> None:
    evaluated(folder, tmp_path / "whole")
    assert "5 cases, 15 bins; 0 taken from" in capsys.readouterr().out
    out = tmp_path / "out"
    for number, cases in ((2, ["b", "e"]), (3, ["c"]), (1, ["a", "d"])):
        read.clear()
        evaluated(folder, out, "--part", f"{number}/3")
        assert read == cases
        (line,) = capsys.readouterr().out.splitlines()
        n = len(cases)
        assert line.startswith(f"part {number} of 3: {n} case{'s' * (n > 1)} counted, 0 there ")
        assert line.endswith("run the same command without --part")
        assert [path.name for path in out.iterdir()] == ["cases"]
    assert sorted(path.name for path in (out / "cases").iterdir()) == [f"{c}.npz" for c in "abcde"]
    read.clear()
    evaluated(folder, out)
    assert read == []
    assert f"5 taken from {out / 'cases'}, 0 counted" in capsys.readouterr().out
    assert content(out) == content(tmp_path / "whole")


def test_a_part_goes_on_where_it_was_without_loading_sums(
    folder, tmp_path, read, capsys, monkeypatch
) -> None:
    out = tmp_path / "out"
    evaluated(folder, out, "--part", "1/2")
    (out / "cases" / "c.npz").unlink()
    folder.add("e", *softmax_case(np.random.default_rng(12), (4, 5, 6)))  # another prediction
    read.clear()
    with monkeypatch.context() as patched:
        patched.setattr(cache, "load", None)
        evaluated(folder, out, "--part", "1/2")
    assert read == ["c", "e"]
    assert "2 cases counted, 1 there already" in capsys.readouterr().out
    evaluated(folder, out)
    assert f"3 taken from {out / 'cases'}, 2 counted" in capsys.readouterr().out


def test_a_part_takes_its_share_of_the_chosen_cases(folder, tmp_path, read, capsys) -> None:
    chosen = ("--cases", "e", "c", "b")
    evaluated(folder, tmp_path / "out", "--part", "2/2", *chosen)
    evaluated(folder, tmp_path / "out", "--part", "4/4", *chosen)  # more parts than cases
    assert read == ["c"]
    assert "part 4 of 4: 0 cases counted, 0 there" in capsys.readouterr().out


def test_each_part_checks_all_cases_and_chill_goes_on(folder, tmp_path, capsys, read) -> None:
    (folder.gt / "b.nii.gz").unlink()
    (folder.pred / "c.npz").write_bytes(b"")
    arguments = [folder.gt, folder.pred, "-o", tmp_path / "out", *QUICK]
    whole = refused(capsys, *arguments)
    for part in ("1/2", "2/2"):
        assert refused(capsys, *arguments, "--part", part) == whole
    assert not (tmp_path / "out").exists()
    # b is no case now, and of the others the second and the fourth are in the second part.
    evaluated(folder, tmp_path / "out", "--part", "2/2", "--chill")
    assert read == ["e"]
    assert "1 case counted, 1 could not be, 0 there already" in capsys.readouterr().out


def test_maps_are_for_the_last_run(folder, capsys) -> None:
    line = refused(capsys, folder.gt, folder.pred, "--part", "1/2", "--maps")
    assert line.startswith("Error: --maps: expected none with --part")
    assert not (folder.pred / "calibration").exists()


@given(n_cases=st.integers(0, 60), n_parts=st.integers(1, 20))
def test_parts_are_disjoint_complete_and_of_equal_size(n_cases, n_parts) -> None:
    cases = list(range(n_cases))
    parts = [Part(number, n_parts).of(cases) for number in range(1, n_parts + 1)]
    assert sorted(case for part in parts for case in part) == cases
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    "text", ["0/4", "5/4", "a/b", "3", "3/", "/4", "-1/4", "1/0", "1/4/2", " 1/4", "1/٤", "1.0/4"]
)
def test_a_text_that_is_no_part_is_one_line(folder, capsys, text) -> None:
    with pytest.raises(InputError, match=r"^--part: expected NUMBER/PARTS, .* got '"):
        Part.parse(text)
    if text == "5/4":
        assert text in refused(capsys, folder.gt, folder.pred, "--part", text)


def test_a_single_small_case_starts_no_other_process(make_folder, tmp_path, read) -> None:
    folder = make_folder()
    folder.add("a", *softmax_case(np.random.default_rng(0), (4, 5, 6)))
    flags = ["-o", str(tmp_path), "--part", "1/1", "-np", "2", "--no-surface"]
    assert main([str(folder.gt), str(folder.pred), *flags]) == 0
    assert read == ["a"]  # here, where it is seen
