"""The results of trainings as files: small, the same for the same numbers, of no machine."""

from __future__ import annotations

import json
import lzma
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from made_up import evaluation
from predictions import LABELS, PredictionFolder, softmax_case

import nnunet_meep as nm
from nnunet_meep.benchmark.results import (
    COLUMNS,
    Results,
    TrainingResult,
    in_order,
    read_result,
    read_results,
    write_result,
)
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.errors import InputError

CASES = ("t0", "t1", "t2")


def folders(root: Path) -> Folders:
    places = {name: root / name for name in ("raw", "preprocessed", "results")}
    return Folders(work=root / "work", **places)


def result(seed: int | None = 0, **changes: object) -> TrainingResult:
    validation, test = evaluation(("c0", "c1"), 3.0), evaluation(CASES, 3.0)
    made = TrainingResult(
        data="hip",
        trainer="nnUNetTrainerDiceCE",
        seed=seed,
        fold=1,
        evaluations={"validation": validation, "test": test, "test+temperature": test},
        curves={"train_losses": [0.123456789, -0.5], "lambda": [0.1, math.nan]},
        cost={"seconds_per_epoch": 12.3456789, "device": "CPU"},
        versions={"torch": "2.6"},
        temperature=1.23456789,
    )
    return replace(made, **changes)


def test_what_is_written_is_read(tmp_path) -> None:
    given_ = result()
    path = write_result(given_, tmp_path / "out", folders(tmp_path))
    assert path == tmp_path / "out" / "hip" / "nnUNetTrainerDiceCE_seed0_fold_1.json.xz"
    read = read_result(path, folders(tmp_path))
    for name in ("data", "trainer", "seed", "fold", "versions"):
        assert getattr(read, name) == getattr(given_, name)
    assert read.curves["train_losses"] == [0.123457, -0.5]
    np.testing.assert_array_equal(read.curves["lambda"], [0.1, math.nan])
    assert read.cost == {"seconds_per_epoch": 12.3457, "device": "CPU"}
    assert read.temperature == 1.23457
    assert list(read.evaluations) == list(given_.evaluations)
    old, new = (r.evaluations["test"].to_dataframe() for r in (given_, read))
    numbers = old.columns[4:]
    assert (old[old.columns[:4]] == new[old.columns[:4]]).all(axis=None)
    np.testing.assert_allclose(new[numbers], old[numbers], rtol=5.1e-6)
    assert list(read.models()) == ["nnUNetTrainerDiceCE", "nnUNetTrainerDiceCE + temperature"]
    without_test = replace(read, evaluations={"validation": read.evaluations["validation"]})
    assert without_test.models() == {"nnUNetTrainerDiceCE": without_test.evaluations["validation"]}
    again = write_result(given_, tmp_path / "again", folders(tmp_path))
    assert again.read_bytes() == path.read_bytes()
    of_read = write_result(read, tmp_path / "of_read", folders(tmp_path))
    first, second = (json.loads(lzma.decompress(p.read_bytes())) for p in (path, of_read))
    assert first == second


#: Whoever has the repository makes the published tables again from these; here one of each plan.
COMMITTED = [
    min(folder.glob("*.json.xz"), key=lambda path: path.stat().st_size)
    for folder in sorted(Path(__file__).parents[2].glob("benchmarks/results/**/"))
    if any(folder.glob("*.json.xz"))
]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_the_committed_results_can_be_read_and_compared(path) -> None:
    read = read_result(path)
    comparison = nm.compare({"same": read.evaluations["test"], **read.models()})
    assert comparison.differences[read.trainer]["1"]["ece"]["mean"] == 0
    assert "ece" in set(Results((read,)).to_dataframe().metric)


def test_nothing_in_it_names_the_machine(tmp_path) -> None:
    made = []
    for root in (tmp_path / "first" / "user", tmp_path / "second"):
        folder = PredictionFolder(root / "work" / "predictions", LABELS)
        (root / "lobes").mkdir()
        for case in CASES:
            folder.add(case, *softmax_case(np.random.default_rng(ord(case[-1])), (4, 5, 6)))
            mask = sitk.GetImageFromArray(np.ones((4, 5, 6), np.uint8))
            sitk.WriteImage(mask, root / "lobes" / f"{case}.nii.gz")
        rois = ["image", f"mask:{root / 'lobes'}"]
        evaluated = nm.evaluate(folder.gt, folder.pred, rois=rois)
        given_ = result(evaluations={"validation": evaluated, "test": evaluated})
        made.append(write_result(given_, root / "out", folders(root)))
        read = read_result(made[-1], folders(root)).evaluations["test"]
        assert read.sources.pred_folders == (folder.pred,)
        assert list(read.pooled) == ["image", "mask:lobes"]
        np.testing.assert_allclose(
            read.over("mask:lobes").pooled["mask:lobes"].classes["1"]["ece"],
            evaluated.pooled[rois[1]].classes["1"]["ece"],
            rtol=1e-5,
        )
        text = lzma.decompress(made[-1].read_bytes()).decode()
        assert str(tmp_path) not in text
        assert "{work}/predictions/pred" in text
    first, second = (path.read_bytes() for path in made)
    assert first == second


def test_a_path_elsewhere_keeps_its_name_only(tmp_path) -> None:
    evaluated = evaluation(CASES, 3.0)
    changed = replace(evaluated, settings={**evaluated.settings, "gt_folder": "/data/secret/gt"})
    path = write_result(result(evaluations={"test": changed}), tmp_path, folders(tmp_path))
    assert read_result(path).evaluations["test"].settings["gt_folder"] == "gt"


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> bytes:
    root = tmp_path_factory.mktemp("stored")
    small = {"test": evaluation(("t0",), 3.0)}
    return write_result(result(evaluations=small), root, folders(root)).read_bytes()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(0.5, b"")
@given(st.floats(0, 1), st.binary(max_size=8))
def test_damaged_files_are_one_line(tmp_path, stored, where, put) -> None:
    """A piece of the file is cut out and something else is put in its place."""
    at = int(where * (len(stored) - 12))
    path = tmp_path / "x.json.xz"
    path.write_bytes(stored[:at] + put + stored[at + 9 :])
    try:
        read = read_result(path)
    except InputError as error:
        (line,) = str(error).splitlines()
        is_right = line.startswith(str(path))
    else:
        is_right = path.read_bytes() == stored and read.data == "hip"
    assert is_right


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", 2),
        ("evaluations", {}),
        ("evaluations", []),
        ("evaluations", {"test": {}}),
        ("evaluations", None),
        ("data", None),
        ("seed", "0"),
        ("fold", 1.5),
        ("curves", [1]),
        ("curves", {"x": 1}),
        ("cost", None),
        ("versions", 1),
    ],
)
def test_other_content_is_one_line(tmp_path, stored, key, value) -> None:
    content = json.loads(lzma.decompress(stored))
    path = tmp_path / "x.json.xz"
    for changed in ({**content, key: value}, {k: v for k, v in content.items() if k != key}):
        path.write_bytes(lzma.compress(json.dumps(changed).encode()))
        with pytest.raises(InputError) as error:
            read_result(path)
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)
    for other in ("[]", "null", "{", "[" * 100_000):
        path.write_bytes(lzma.compress(other.encode()))
        with pytest.raises(InputError, match="expected the result of a training"):
            read_result(path)


def test_the_temperature_is_a_number_or_was_not_kept_yet(tmp_path, stored) -> None:
    content = json.loads(lzma.decompress(stored))
    path = tmp_path / "x.json.xz"
    path.write_bytes(lzma.compress(json.dumps({**content, "temperature": "hot"}).encode()))
    with pytest.raises(InputError, match="expected the result of a training"):
        read_result(path)
    del content["temperature"], content["network"]
    path.write_bytes(lzma.compress(json.dumps(content).encode()))
    assert (read_result(path).temperature, read_result(path).network) == (None, None)


def test_a_folder_of_results(tmp_path) -> None:
    with pytest.raises(InputError, match="expected results of meep-benchmark, found none"):
        read_results(tmp_path)
    for seed in (1, 0, None):
        write_result(result(seed), tmp_path, folders(tmp_path))
    found = read_results(tmp_path)
    assert {t.seed for t in found.trainings} == {0, 1, None}
    order = [f"hip/nnUNetTrainerDiceCE/{seed}/1" for seed in (None, 0, 1)]
    assert [t.seed for t in in_order(found.trainings, order).trainings] == [None, 0, 1]
    assert found.of("hip") == list(found.trainings)
    assert found.of("la") == []
    frame = found.to_dataframe()
    assert list(frame.columns) == list(COLUMNS)
    of_case = frame.query("seed == 0 and scans == 'test' and calibrator == 'temperature'")
    ece = of_case.query("case == 't1' and metric == 'ece'").set_index("class")["value"]
    made = evaluation(CASES, 3.0).cases[1].rois["image"]
    assert ece["2"] == pytest.approx(made.classes["2"]["ece"], rel=1e-5)
    assert ece["top_label"] == pytest.approx(made.top_label["ece"], rel=1e-5)
    assert set(frame["seed"]) == {"", 0, 1}
    assert Results(()).to_dataframe().empty


def test_results_of_two_networks_are_not_one_model(tmp_path) -> None:
    """As a changed configuration leaves them behind, until all is trained again."""
    for seed, network in ((0, "nnUNetPlans__2d"), (1, "nnUNetPlans__3d_fullres"), (2, None)):
        write_result(replace(result(seed), network=network), tmp_path, folders(tmp_path))
    with pytest.raises(
        InputError, match=r"expected a result of nnUNetPlans__2d, as .*fullres; rem"
    ):
        read_results(tmp_path)
    (path,) = tmp_path.glob("*/*seed0*")
    path.unlink()
    assert len(read_results(tmp_path).trainings) == 2
