"""``meep-benchmark``: its arguments, one line for what is wrong, and what it prints."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from made_up import DATASET, PLAN, TRAINERS, finish, prepared, raw_data

from nnunet_meep.benchmark.run import Options
from nnunet_meep.cli.benchmark import main
from nnunet_meep.errors import InputError

PLAIN, MEEP = TRAINERS
KEY = f"hip/{PLAIN}_seed0/fold_0"


@pytest.fixture
def plan(tmp_path, monkeypatch) -> Path:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path / "plan.toml"


def error(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    """What the command says, in one line, before it ends with 1."""
    assert main([str(arg) for arg in args]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Error: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("command", ["run", "status", "commands", "report"])
def test_a_plan_that_is_not_there_or_wrong(plan, capsys, command) -> None:
    assert "meep-benchmark init writes one" in error(capsys, command, plan.with_name("none.toml"))
    assert "nnUNet_raw: expected" in error(capsys, command, plan)
    plan.write_text(PLAN.replace("MEEP_H", "MEPP_H"))
    assert f"the nearest right name is {MEEP}" in error(capsys, command, plan)


@pytest.mark.parametrize(
    ("only", "said"),
    [
        (f"hip/{MEEP}_seed2/fold_0", f"the nearest is hip/{MEEP}_seed"),
        (f"{KEY}/trian", f"the nearest is {KEY}/train"),
        (f"{KEY}/fit/platt", f"the nearest is {KEY}/fit"),
        ("hip/spilts", "the nearest is hip/splits"),
        ("hop", "the nearest is hip"),
        ("", f"such as {KEY}, found none"),
    ],
)
def test_only_a_step_of_the_plan(plan, tmp_path, capsys, only, said) -> None:
    line = error(capsys, "run", plan, "--work", tmp_path / "work", "--only", only)
    assert said in line
    assert not (tmp_path / "work").exists()


def test_every_step_can_be_named(plan, tmp_path) -> None:
    plan.write_text(PLAN + "\n[evaluate]\nparts = 2\n")
    prepared(tmp_path / "work")
    options = Options(plan, tmp_path / "work", device="cpu")
    for key in options.state().steps:
        assert key in options.state([key]).steps


def test_sources(plan, tmp_path, capsys) -> None:
    work = ["--work", str(tmp_path / "work")]
    convert = "convert = 'meep-convert-la {source} -d 4'\n\n[[training]]"
    plan.write_text(PLAN.replace("[[training]]", convert))
    assert main(["status", str(plan), *work]) == 0
    assert "give --source hip=FOLDER" in capsys.readouterr().out
    missing = tmp_path / "missing"
    assert f"{missing}: expected a folder" in error(
        capsys, "status", plan, *work, "--source", f"hip={missing}"
    )
    folder = tmp_path / "a=b"
    folder.mkdir()
    for source in (f"hip={folder}", str(folder)):  # the only data set need not be named
        assert main(["status", str(plan), *work, "--source", source]) == 0
        assert "give --source" not in capsys.readouterr().out
    two = '[data.la]\ndataset = "Dataset501_LA"\n\n[[training]]\ndata = "hip"'
    plan.write_text(PLAN.replace("[[training]]", two))
    for source in (str(folder), f"hop={folder}"):
        assert "(hip, la)" in error(capsys, "status", plan, *work, "--source", source)


def test_a_source_does_not_get_into_the_records(plan, tmp_path, capsys) -> None:
    """Nor is it lost when the data set is made a second time."""
    convert = "convert = 'meep-convert-la {source} -d 4'\n\n[[training]]"
    plan.write_text(PLAN.replace("[[training]]", convert))
    source = tmp_path / "source"
    source.mkdir()
    command = ["run", str(plan), "--work", str(tmp_path / "work"), "--source", str(source)]
    for _ in range(2):
        assert main([*command, "-device", "cpu"]) == 1
        printed = capsys.readouterr()
        assert f"$ meep-convert-la {source} -d 4" in printed.out
        assert "hip/data failed: Error: " in printed.err
        assert (
            str(source)
            not in (tmp_path / "work/steps/hip/data.json").read_text().split('"reason"')[0]
        )
    raw_data(tmp_path / "work" / "nnUNet_raw")
    assert main(["status", str(plan), "--work", str(tmp_path / "work")]) == 0


def test_lines_that_can_be_run_anywhere(plan, tmp_path, capsys) -> None:
    prepared(tmp_path / "my work")
    options = ["--work", str(tmp_path / "my work"), "-device", "cuda", "--gpus", "0,1"]
    assert main(["commands", str(plan), *options, "--per-gpu", "2"]) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 4
    options[2] = "--device"
    start = ["meep-benchmark", "run", str(plan), *options, "--per-gpu", "2", "--only"]
    assert lines[0] == [*start, KEY]
    finish(Options(plan, tmp_path / "my work").state())
    assert main(["commands", str(plan), *options]) == 0
    assert capsys.readouterr() == ("", "Nothing is pending.\n")


def test_a_plan_without_an_ending_has_no_place_for_results(
    plan, tmp_path, monkeypatch, capsys
) -> None:
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    other = plan.rename(tmp_path / "plan")
    assert "expected a name that ends with .toml" in error(capsys, "status", other)
    assert main(["status", str(other), "--work", str(tmp_path / "work")]) == 0


def test_a_note_on_what_is_trained_once(plan, tmp_path, capsys) -> None:
    plan.write_text(PLAN.replace(f'"{PLAIN}"', '"nnUNetTrainer_250epochs"'))
    command = ["run", str(plan), "--work", str(tmp_path / "work"), "-device", "cpu"]
    assert main(command) == 1  # there is no such data set
    printed = capsys.readouterr()
    assert "Note: nnUNetTrainer_250epochs takes no seed" in printed.out
    assert f"expected nnU-Net raw data {DATASET} in" in printed.err


@pytest.mark.parametrize("wrong", [["--jobs", "0"], ["--per-gpu", "x"], ["-device", "tpu"]])
def test_wrong_arguments(plan, capsys, wrong) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", str(plan), *wrong])
    assert ended.value.code == 2
    assert wrong[1] in capsys.readouterr().err


def test_gpus_for_a_cpu(plan, tmp_path, capsys) -> None:
    command = ["run", plan, "--work", tmp_path / "work", "-device", "cpu", "--gpus", "0"]
    assert "--gpus: expected -device cuda" in error(capsys, *command)


def test_slurm_without_a_time_limit(plan, tmp_path, capsys) -> None:
    pytest.importorskip("submitit")
    command = ["run", plan, "--work", tmp_path / "work", "--slurm", "partition=gpu"]
    assert "time=24:00:00" in error(capsys, *command)
    assert "expected options of sbatch" in error(capsys, *command[:-1], "gpu")


def test_a_cluster_for_a_part_of_the_plan(plan, tmp_path, capsys) -> None:
    command = ["run", plan, "--work", tmp_path / "work", "--slurm"]
    assert "--only: expected no --slurm" in error(capsys, *command, "time=1", "--only", KEY)
    assert "--slurm : expected options of sbatch" in error(capsys, *command, "")


def test_lines_need_names_on_one_line(plan, tmp_path, capsys) -> None:
    work = tmp_path / "a\nb"
    prepared(work)
    line = error(capsys, "commands", plan, "--work", work)
    assert "expected names without a line break" in line


def test_failed_steps_are_shown_although_the_report_fails_too(
    plan, tmp_path, capsys, monkeypatch
) -> None:
    def fail(*_: object) -> None:
        raise InputError("no report")

    monkeypatch.setattr("nnunet_meep.benchmark.run.report", fail)
    convert = "convert = 'meep-convert-la {source} -d 4'\n\n[[training]]"
    plan.write_text(PLAN.replace("[[training]]", convert))
    command = ["run", str(plan), "--work", str(tmp_path / "work"), "-device", "cpu"]
    assert main([*command, "--source", str(tmp_path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Error: not everything could be done:"
    assert lines[1].startswith("  hip/data failed: ")
    assert lines[2] == "  report: no report"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (DATASET, "Dataset004_Hipocampus", f"[data.hip] dataset: is {DATASET} meant? expected"),
        ("[[training]]", 'configuration = "3d_fulres"\n\n[[training]]', "is 3d_fullres meant?"),
        ("[[training]]", "folds = [0, 7]\n\n[[training]]", "folds: expected folds from 0 to 4"),
    ],
)
@pytest.mark.parametrize("is_prepared", [False, True])
def test_what_does_not_fit_the_data_is_refused_before_anything_runs(
    plan, tmp_path, capsys, monkeypatch, is_prepared, old, new, said
) -> None:
    work, raw = tmp_path / "work", tmp_path / "mine" / "nnUNet_raw"
    prepared(work) if is_prepared else raw_data(raw)
    monkeypatch.setenv("nnUNet_raw", str(raw))
    plan.write_text(PLAN.replace(old, new, 1))
    line = error(capsys, "run", plan, "--work", work, "-device", "cpu")
    assert line.startswith(f"Error: {plan}: ")
    assert said in line
    assert not (work / "steps").exists()


def test_a_look_at_the_state_changes_nothing(plan, tmp_path, capsys) -> None:
    prepared(tmp_path / "work")
    before = sorted(tmp_path.rglob("*"))
    assert main(["status", str(plan), "--work", str(tmp_path / "work")]) == 0
    assert main(["commands", str(plan), "--work", str(tmp_path / "work")]) == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_report_of_no_results(plan, tmp_path, capsys) -> None:
    command = ["report", plan, "--work", tmp_path / "work", "--results", tmp_path]
    assert "expected results of meep-benchmark, found none" in error(capsys, *command)
    (tmp_path / "hip").mkdir()
    (tmp_path / "hip" / "x.json.xz").write_bytes(b"\xfd7zXZ")
    assert "x.json.xz: expected the result of a training" in error(capsys, *command)


def test_a_file_is_no_folder_to_work_in(plan, capsys) -> None:
    line = error(capsys, "status", plan, "--work", plan)
    assert line.endswith("expected a folder to work in, found a file (--work)\n")
