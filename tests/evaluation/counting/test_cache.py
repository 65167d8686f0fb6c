"""A run that was stopped goes on where it was, with what was finished and nothing else."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.figure import Figure
from predictions import softmax_case
from test_evaluate import refused, run

from nnunet_meep.cli.calib_eval import main
from nnunet_meep.evaluation.counting import one_pass

pytestmark = pytest.mark.usefixtures("unrendered")

RESULTS = ("calibration.json", "calibration.csv", "reliability.png", "reliability.svg")


@pytest.fixture
def folder(make_folder):
    folder, rng = make_folder(), np.random.default_rng(4)
    for case in "abc":
        folder.add(case, *softmax_case(rng, (4, 5, 6)), spacing_mm=(2.0, 1.0, 0.5))
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


def results(out: Path) -> dict[str, bytes]:
    """The files, but for when and from where they were written."""
    files = {name: (out / name).read_bytes() for name in RESULTS}
    content = json.loads(files["calibration.json"])
    del content["origin"]
    return {**files, "calibration.json": json.dumps(content).encode()}


@pytest.mark.rendered
def test_finished_cases_are_not_read_again(folder, tmp_path, read) -> None:
    first = run(folder, tmp_path)
    before = results(tmp_path / "out")
    assert read == ["a", "b", "c"]
    assert run(folder, tmp_path) == first
    assert read == ["a", "b", "c"]
    assert results(tmp_path / "out") == before


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_stopped_run_goes_on_and_ends_as_one_that_was_not(
    folder, tmp_path, monkeypatch, capsys, stop
) -> None:
    run(folder, tmp_path / "whole", "--roi", "image", "crop", "boundary:1")
    sum_case, read, stopped = one_pass.sum_case, [], []

    def stopping(case, *args):
        read.append(case.name)
        if case.name == "b" and not stopped:
            stopped.append(True)
            raise stop
        return sum_case(case, *args)

    monkeypatch.setattr(one_pass, "sum_case", stopping)
    args = [folder.gt, folder.pred, "-o", tmp_path / "out", "-np", 1]
    args += ["--roi", "image", "crop", "boundary:1"]
    assert main([str(a) for a in args]) == (130 if stop is KeyboardInterrupt else 1)
    assert not list((tmp_path / "out").glob("*.*"))
    assert read == ["a", "b"]
    assert main([str(a) for a in args]) == 0
    assert read == ["a", "b", "b", "c"]
    assert results(tmp_path / "out") == results(tmp_path / "whole" / "out")


def test_a_case_that_was_refused_does_not_cost_the_others(folder, tmp_path, capsys, read) -> None:
    whole = (folder.pred / "b.npz").read_bytes()
    (folder.pred / "b.npz").write_bytes(whole[:-100])
    refused(capsys, folder.gt, folder.pred, "-o", tmp_path / "out", "-np", 1)
    (folder.pred / "b.npz").write_bytes(whole)
    run(folder, tmp_path)
    assert read == ["a", "b", "c"]  # that b was cut short was seen before its voxels were


FILES = ["gt/b.nii.gz", "pred/b.npz", "pred/b.nii.gz"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_replaced_with_its_times_kept_is_read_again(folder, tmp_path, read, name) -> None:
    """As ``cp -p``, ``rsync -a`` and unpacking an archive do it."""
    before = run(folder, tmp_path)
    path = tmp_path / name
    other = path.with_name(path.name.replace("b", "c"))
    stat = path.stat()
    shutil.copy(other, path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = run(folder, tmp_path)
    assert read == ["a", "b", "c", "b"]
    assert after["cases"][1] != before["cases"][1]
    assert after == run(folder, tmp_path / "scratch")


@pytest.mark.parametrize("name", FILES)
def test_other_times_alone_make_no_work(folder, tmp_path, read, name) -> None:
    before = run(folder, tmp_path)
    os.utime(tmp_path / name)
    assert run(folder, tmp_path) == before
    assert read == ["a", "b", "c"]


def test_a_case_that_is_changed_while_it_is_read_is_no_result(
    folder, tmp_path, monkeypatch, capsys
) -> None:
    sum_case = one_pass.sum_case

    def slowly(case, *args):
        sums = sum_case(case, *args)
        if case.name == "b":
            shutil.copy(folder.gt / "c.nii.gz", folder.gt / "b.nii.gz")
        return sums

    monkeypatch.setattr(one_pass, "sum_case", slowly)
    line = refused(capsys, folder.gt, folder.pred, "-o", tmp_path / "out", "-np", 1)
    assert f"{folder.pred / 'b.npz'}: b was changed while it was evaluated" in line
    assert not (tmp_path / "out" / "cases" / "b.npz").exists()


def test_new_probabilities_give_new_numbers(folder, tmp_path) -> None:
    before = run(folder, tmp_path)
    p, reference = softmax_case(np.random.default_rng(99), (4, 5, 6))
    folder.add("b", p, reference, spacing_mm=(2.0, 1.0, 0.5))
    after = run(folder, tmp_path)
    assert after["cases"][0] == before["cases"][0]
    brier = after["cases"][1]["classes"]["1"]["brier"]
    assert brier == pytest.approx(np.mean((p[1].astype(np.float64) - (reference == 1)) ** 2))


@pytest.mark.parametrize(
    "flags",
    [["--bins", "10"], ["--roi", "crop"], ["--roi", "image", "crop"], ["--no-surface"]],
    ids=" ".join,
)
def test_another_question_is_answered_anew(folder, tmp_path, read, flags) -> None:
    run(folder, tmp_path)
    changed = run(folder, tmp_path, *flags)
    assert read == ["a", "b", "c"] * 2
    assert changed == run(folder, tmp_path / "alone", *flags)


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "Anterior": 1, "Tail": 2},
        {"background": 0, "Posterior": 1, "Anterior": 2},
        {"background": 0, "Anterior": 1, "Posterior": 2, "ignore": 3},
    ],
)
def test_other_labels_are_another_question(folder, tmp_path, read, labels) -> None:
    run(folder, tmp_path)
    path = folder.pred / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "labels": labels}))
    result = run(folder, tmp_path)
    assert read == ["a", "b", "c"] * 2
    assert result["classes"]["1"]["name"] == next(n for n, v in labels.items() if v == 1)


def test_another_reader_is_another_question(folder, tmp_path, read) -> None:
    run(folder, tmp_path)
    (folder.pred / "plans.json").write_text('{"image_reader_writer": "NibabelIO"}')
    run(folder, tmp_path)
    assert read == ["a", "b", "c"] * 2


def like_the_reference(array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 1.0, 2.0))
    return image


def test_a_changed_mask_is_another_question(folder, tmp_path, read) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for case in "abc":
        image = like_the_reference(np.ones((4, 5, 6), np.uint8))
        sitk.WriteImage(image, masks / f"{case}.nii.gz")
    run(folder, tmp_path, "--roi", f"mask:{masks}")
    one_corner = np.zeros((4, 5, 6), np.uint8)
    one_corner[0, 0, 0] = 1
    sitk.WriteImage(like_the_reference(one_corner), masks / "c.nii.gz")
    run(folder, tmp_path, "--roi", f"mask:{masks}")
    assert read == ["a", "b", "c", "c"]


def test_a_mask_that_is_gone_is_said_though_the_case_was_finished(folder, tmp_path, capsys) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for case in "abc":
        shutil.copy(folder.gt / f"{case}.nii.gz", masks)
    run(folder, tmp_path, "--roi", f"mask:{masks}")
    (masks / "b.nii.gz").unlink()
    args = (folder.gt, folder.pred, "-o", tmp_path / "out", "-np", 1, "--roi", f"mask:{masks}")
    assert str(masks / "b.nii.gz") in refused(capsys, *args)


@pytest.mark.parametrize("which", ["gt", "pred", "masks"])
def test_sums_are_never_written_over_what_is_read(tmp_path, capsys, make_folder, which) -> None:
    """They are called as the probabilities are, and lie in the folder ``cases``."""
    folder = make_folder()
    folder.add("a", *softmax_case(np.random.default_rng(0), (4, 5, 6)))
    shutil.copytree(folder.gt, tmp_path / "masks")
    (tmp_path / which).rename(tmp_path / "cases")
    folders = [tmp_path / ("cases" if name == which else name) for name in ("gt", "pred", "masks")]
    before = {path: path.read_bytes() for path in (tmp_path / "cases").iterdir()}
    args = (*folders[:2], "-o", tmp_path, "-np", 1, "--roi", f"mask:{folders[2]}")
    line = refused(capsys, *args)
    assert f"{tmp_path / 'cases'}: expected a folder for the sums of finished cases" in line
    assert {path: path.read_bytes() for path in (tmp_path / "cases").iterdir()} == before


class Trap:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def noise(path: Path, trace: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(500))


def empty(path: Path, trace: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path, trace: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def pickled(path: Path, trace: Path) -> None:
    path.write_bytes(pickle.dumps(Trap(trace)))


def pickled_arrays(path: Path, trace: Path) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **{name: np.array([Trap(trace)], object) for name in arrays})


def other_arrays(path: Path, trace: Path) -> None:
    np.savez(path, probabilities=np.zeros(3))


def no_json(path: Path, trace: Path) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **{**arrays, "about": np.frombuffer(b"{}]", np.uint8)})


def other_json(path: Path, trace: Path) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **{**arrays, "about": np.frombuffer(b"[1]", np.uint8)})


def of_another_case(path: Path, trace: Path) -> None:
    shutil.copy(path.with_name("a.npz"), path)


@pytest.mark.parametrize(
    "damage",
    [
        noise, empty, cut, pickled, pickled_arrays, other_arrays, no_json, other_json,
        of_another_case,
    ],
)  # fmt: skip
def test_a_kept_file_that_cannot_be_used_is_made_anew(
    folder, tmp_path, read, damage: Callable[[Path, Path], None]
) -> None:
    run(folder, tmp_path)
    before = results(tmp_path / "out")
    trace = tmp_path / "trace"
    damage(tmp_path / "out" / "cases" / "b.npz", trace)
    run(folder, tmp_path)
    assert not trace.exists()
    assert read == ["a", "b", "c", "b"]
    assert results(tmp_path / "out") == before


def test_any_damaged_byte_of_a_kept_file_is_found_or_harmless(folder, tmp_path) -> None:
    from nnunet_meep.evaluation.counting import cache

    run(folder, tmp_path, "--no-surface")
    path = tmp_path / "out" / "cases" / "b.npz"
    asked, whole = cache.load(path)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    headers = [i for sign in (b"PK\1\2", b"PK\3\4") for i in find_all(content, sign)]
    places = {*rng.integers(0, len(content), 300).tolist()}
    places |= {i + offset for i in headers for offset in range(4, 46)}
    outcomes = set()
    for i in places:
        damaged = bytearray(content)
        damaged[i] ^= 0xFF
        path.write_bytes(damaged)
        try:
            sums = cache.find(path, asked)
        except Exception as error:
            outcomes.add(repr(error))
        else:
            outcomes.add("right" if sums is None or numbers(sums) == numbers(whole) else "wrong")
    assert outcomes == {"right"}


def numbers(sums: object) -> object:
    """The same as lists and dicts, which can be compared."""
    if isinstance(sums, np.ndarray):
        return sums.tolist()
    if isinstance(sums, dict):
        return {name: numbers(value) for name, value in sums.items()}
    if isinstance(sums, tuple):
        return [numbers(value) for value in sums]
    return numbers(vars(sums)) if is_dataclass(sums) else sums


def find_all(content: bytes, sign: bytes) -> list[int]:
    return [i for i in range(len(content)) if content.startswith(sign, i)]


@pytest.mark.slow
@pytest.mark.rendered
def test_one_and_two_processes_write_the_same_bytes(folder, tmp_path) -> None:
    flags = ["--roi", "image", "boundary:1", "crop"]
    for n in "12":
        run(folder, tmp_path / n, *flags, "-np", n)
    assert results(tmp_path / "1" / "out") == results(tmp_path / "2" / "out")


@pytest.mark.slow
def test_what_one_process_finished_two_do_not_read_again(folder, tmp_path) -> None:
    run(folder, tmp_path)
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "cases").iterdir()}
    before = results(tmp_path / "out")
    (tmp_path / "out" / "cases" / "b.npz").unlink()
    run(folder, tmp_path, "-np", "2")
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "cases").iterdir()}
    assert {name for name in after if after[name] != kept[name]} == {"b.npz"}
    assert results(tmp_path / "out") == before


class TestFullDisk:
    """Old results stay as they were; the disk is full for the second run, with other bins."""

    @pytest.fixture(autouse=True)
    def _old_result(self, folder, tmp_path, monkeypatch, capsys) -> None:
        self.folder, self.out, self.capsys = folder, tmp_path / "out", capsys
        self.monkeypatch = monkeypatch
        run(folder, tmp_path)
        self.before = results(self.out)

    def fails(self, *flags: object) -> None:
        args = (self.folder.gt, self.folder.pred, "-o", self.out, "-np", 1, *flags)
        assert "No space left on device" in refused(self.capsys, *args)
        assert results(self.out) == self.before
        names = {*RESULTS, "cases", "a.npz", "b.npz", "c.npz"}
        assert {p.name for p in self.out.rglob("*")} <= names  # nothing half written either

    def full(self, owner: object, name: str, only_for: Callable[..., bool] | None = None) -> None:
        original = getattr(owner, name)

        def full_disk(*args, **kwargs):
            if only_for is None or only_for(*args):
                raise OSError(28, "No space left on device")
            return original(*args, **kwargs)

        self.monkeypatch.setattr(owner, name, full_disk)

    def test_while_the_json_is_written(self) -> None:
        self.full(Path, "open", lambda path, *_: path.match(".tmp-*/calibration.json"))
        self.fails("--bins", "10")

    def test_while_the_csv_is_written(self) -> None:
        self.full(Path, "open", lambda path, *_: path.match(".tmp-*/calibration.csv"))
        self.fails("--bins", "10")

    def test_while_the_picture_is_drawn(self) -> None:
        self.full(Figure, "savefig")
        self.fails("--bins", "10")

    def test_while_a_result_gets_its_name(self) -> None:
        self.full(os, "replace", lambda _, target: Path(target).name in RESULTS)
        self.fails("--bins", "10")

    def test_while_the_sums_of_a_case_are_written(self) -> None:
        self.full(np, "savez_compressed")
        self.fails("--bins", "10")

    def test_while_the_sums_of_a_case_get_their_name(self) -> None:
        self.full(os, "replace")
        self.fails("--bins", "10")

    def test_with_all_cases_finished(self) -> None:
        self.full(Path, "open", lambda path, mode="r", *_: "w" in mode)
        self.fails()
