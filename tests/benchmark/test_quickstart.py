"""Mostly with stand-ins for the commands, which say and leave what the real ones do."""

import io
import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_meep.benchmark import commands, quickstart
from nnunet_meep.cli.quickstart import main

FOLDER_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
COMMANDS = (
    "nnUNetv2_plan_and_preprocess",
    "nnUNetv2_train",
    "nnUNetv2_predict",
    "meep-calib-eval",
)
STAND_IN = """#!{python}
import json, os, pathlib, signal, sys

name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(r"{calls}", "a") as calls:
    calls.write(json.dumps([name, arguments, dict(os.environ)]) + "\\n")
mode = os.environ.get("STAND_IN_" + name, "")
if mode == "fail":
    print("Traceback (most recent call last):")
    print("RuntimeError: the last meaningful line")
    print("Exception in thread Thread-4 (results_loop):")
    print("  a worker that is being ended")
    sys.exit(3)
if mode == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "hang":
    # A worker that outlives its parent holds the pipe open; then the user presses Ctrl-C.
    held = os.open(os.environ["PIPE"], os.O_WRONLY)
    if os.fork():
        os.kill(os.getppid(), int(os.environ["SIGNAL"]))
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()
if name == "nnUNetv2_train":
    print("2026-01-01 00:00:00: Epoch 0")
if "-o" in arguments:
    out = pathlib.Path(arguments[arguments.index("-o") + 1])
    out.mkdir(parents=True)
    if name == "meep-calib-eval":
        ece = 0.02 if "MEEP" in str(out) else 0.04
        numbers = dict(mean=ece, n=3, n_undefined=0)
        metrics = dict.fromkeys(["dice", "hd", "hd95", "brier", "brier_plus", "ece"], numbers)
        result = dict(classes={{"1": dict(name="LA", per_case=metrics)}})
        (out / "calibration.json").write_text(json.dumps(result))
        (out / "reliability.png").touch()
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Stand-ins beside Python; returns what was called: (name, arguments, environment)."""
    beside_python = tmp_path / "bin"
    beside_python.mkdir()
    record = tmp_path / "calls"
    for command in COMMANDS:
        script = beside_python / command
        script.write_text(STAND_IN.format(python=sys.executable, calls=record))
        script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(beside_python / "python"))
    monkeypatch.chdir(tmp_path)
    return lambda: [json.loads(line) for line in record.read_text().splitlines()]


@pytest.fixture
def user_variables(tmp_path, monkeypatch):
    """nnU-Net's folders of the user, who has something in each."""
    for name in FOLDER_VARIABLES:
        folder = tmp_path / "user" / name
        folder.mkdir(parents=True)
        (folder / "mine").write_text(name)
        monkeypatch.setenv(name, str(folder))
    before = contents(tmp_path / "user")
    yield
    assert contents(tmp_path / "user") == before


def contents(folder):
    """Names, modification times and bytes of all that is in a folder."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            None if path.is_dir() else path.read_bytes(),
        )
        for path in folder.rglob("*")
    }


def raw_data(folder, *, test_labels):
    """The names of nnU-Net raw data; nobody reads these files here."""
    files = ["imagesTr/A_0000.nrrd", "imagesTr/A_0001.nrrd", "labelsTr/A.nrrd"]
    files += ["imagesTs/B_0000.nrrd", "imagesTs/B_0001.nrrd"]
    files += ["labelsTs/B.nrrd"] if test_labels else []
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "dataset.json").write_text('{"file_ending": ".nrrd"}')
    return folder


def error(capsys):
    captured = capsys.readouterr()
    assert captured.err.startswith("Error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_commands_of_a_user_one_after_the_other(calls, user_variables, capsys):
    before = dict(os.environ)
    assert main(["-o", "out", "-device", "cpu"]) == 0
    assert dict(os.environ) == before

    plan, *trainers = [[name, *arguments] for name, arguments, _ in calls()]
    dataset = quickstart.SYNTHETIC_DATASET
    assert plan[:5] == ["nnUNetv2_plan_and_preprocess", "-d", "1", "-c", "3d_fullres"]
    for trainer in ("DiceCE", "MEEP_KL"):
        tr = f"nnUNetTrainer{trainer}_2epochs_20iters"
        train, predict, evaluate, trainers = (*trainers[:3], trainers[3:])
        assert train == [
            *("nnUNetv2_train", dataset, "3d_fullres", "0", "-tr", tr, "-device", "cpu")
        ]
        assert predict == [
            *("nnUNetv2_predict", "-i", f"out/nnUNet_raw/{dataset}/imagesTs"),
            *("-o", f"out/predictions/{tr}", "-d", dataset, "-c", "3d_fullres", "-f", "0"),
            *("-tr", tr, "-device", "cpu", "--save_probabilities"),
        ]
        assert evaluate == [
            *("meep-calib-eval", f"out/nnUNet_raw/{dataset}/labelsTs"),
            *(f"out/predictions/{tr}", "-o", f"out/calibration/{tr}"),
        ]
    assert trainers == []

    said = capsys.readouterr().out
    for name, arguments, _ in calls():
        assert f"$ {' '.join([name, *arguments])}\n" in said
    assert said.count("proves the installation, not the method") == 2
    assert "nnUNetv2_train DATASET 3d_fullres 0 -tr nnUNetTrainerMEEP_KL" in said
    pictures = [line.strip() for line in said.splitlines() if line.endswith("reliability.png")]
    assert len(pictures) == 2
    assert all(Path(picture).is_file() for picture in pictures)
    (row,) = [line.split() for line in said.splitlines() if "ECE" in line]
    assert row[-3:] == ["40.00", "20.00", "lower"]


def test_children_work_in_the_folder_on_a_small_machine(calls, user_variables, monkeypatch):
    monkeypatch.setenv("nnUNet_def_n_proc", "5")
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    assert main(["-o", "out", "-device", "cpu"]) == 0
    for _, _, environment in calls():
        for name in FOLDER_VARIABLES:
            assert environment[name] == os.path.abspath(f"out/{name}")
        assert environment["nnUNet_def_n_proc"] == "5"  # what the user has set
        assert environment["nnUNet_n_proc_DA"] == "1"
        assert environment["nnUNet_wandb_enabled"] == "0"


def test_commands_beside_python_come_before_path(calls, tmp_path, monkeypatch):
    decoys = tmp_path / "decoys"
    decoys.mkdir()
    for command in COMMANDS:
        (decoys / command).write_text("#!/bin/sh\nexit 1\n")
        (decoys / command).chmod(0o755)
    monkeypatch.setenv("PATH", str(decoys), prepend=os.pathsep)
    assert main(["-o", "out", "-device", "cpu"]) == 0


def test_without_a_device_the_gpu_if_there_is_one(calls, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert main(["-o", "out"]) == 0
    assert all(a[a.index("-device") + 1] == "cuda" for n, a, _ in calls() if n == "nnUNetv2_train")


def test_data_with_labelled_test_scans(calls, tmp_path, capsys):
    data = raw_data(tmp_path / "Dataset042_Mine", test_labels=True)
    before = contents(data)
    assert main(["-o", "out", "--data", str(data), "-device", "cpu"]) == 0
    assert contents(data) == before
    called = [[name, *arguments] for name, arguments, _ in calls()]
    assert [call[0] for call in called] == [COMMANDS[0], *2 * COMMANDS[1:]]
    assert called[0][1:3] == ["-d", "42"]
    assert "--npz" not in called[1]
    assert called[3][1] == "out/nnUNet_raw/Dataset042_Mine/labelsTs"
    assert (tmp_path / "out/nnUNet_raw/Dataset042_Mine").resolve() == data
    assert "evaluated are the test scans" in capsys.readouterr().out


def test_data_without_test_labels_takes_the_validation_cases(calls, tmp_path, capsys):
    data = raw_data(tmp_path / "Dataset042_Mine", test_labels=False)
    assert main(["-o", "out", "--data", str(data), "-device", "cpu"]) == 0
    called = [[name, *arguments] for name, arguments, _ in calls()]
    assert [call[0] for call in called] == [
        COMMANDS[0],
        *2 * ("nnUNetv2_train", "meep-calib-eval"),
    ]
    tr = "nnUNetTrainerDiceCE_2epochs_20iters"
    assert called[1][-1] == "--npz"
    assert called[2] == [
        "meep-calib-eval",
        "out/nnUNet_preprocessed/Dataset042_Mine/gt_segmentations",
        f"out/nnUNet_results/Dataset042_Mine/{tr}__nnUNetPlans__3d_fullres/fold_0/validation",
        *("-o", f"out/calibration/{tr}"),
    ]
    assert "evaluated are the validation cases of fold 0" in capsys.readouterr().out


def test_data_is_copied_where_links_are_impossible(calls, tmp_path, monkeypatch):
    def no_links(*_, **__):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    data = raw_data(tmp_path / "Dataset042_Mine", test_labels=True)
    for _ in range(2):  # the second run deletes the copy, not the data
        assert main(["-o", "out", "--data", str(data), "-device", "cpu"]) == 0
    assert contents(tmp_path / "out/nnUNet_raw/Dataset042_Mine").keys() == contents(data).keys()


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda d: d.rename(d.parent / "elsewhere"), "found none"),
        (lambda d: (d / "dataset.json").unlink(), "found no dataset.json"),
        (lambda d: (d / "dataset.json").write_text("{}"), '"file_ending"'),
        (lambda d: (d / "dataset.json").write_text("no"), '"file_ending"'),
        (lambda d: (d / "dataset.json").write_text('{"file_ending": ".mha"}'), "no files *.mha"),
        (lambda d: (d / "imagesTr").rename(d / "images"), "imagesTr: expected nnU-Net raw data"),
        (lambda d: (d / "labelsTr/A.nrrd").unlink(), "labelsTr: expected nnU-Net raw data"),
        (lambda d: (d / "labelsTs/C.nrrd").touch(), "found C in one only"),
    ],
)
def test_bad_data_is_refused_in_one_line(calls, tmp_path, capsys, spoil, expected):
    data = raw_data(tmp_path / "Dataset042_Mine", test_labels=True)
    spoil(data)
    assert main(["-o", "out", "--data", str(data)]) == 1
    message = error(capsys)
    assert str(data) in message
    assert expected in message
    assert not Path("out").exists()


def test_data_needs_a_name_that_nnunet_knows(calls, tmp_path, capsys):
    data = raw_data(tmp_path / "Hippocampus", test_labels=True)
    assert main(["-o", "out", "--data", str(data)]) == 1
    assert "DatasetXXX_NAME" in error(capsys)


def test_data_and_working_folder_must_not_overlap(calls, tmp_path, capsys):
    data = raw_data(tmp_path / "Dataset042_Mine", test_labels=True)
    before = contents(data)
    for out in (data, data / "out", tmp_path):
        assert main(["-o", str(out), "--data", str(data)]) == 1
        assert "must not overlap" in error(capsys)
    assert contents(data) == before


def test_a_foreign_folder_is_left_alone(calls, tmp_path, capsys):
    foreign = tmp_path / "foreign"
    (foreign / "empty").mkdir(parents=True)
    for _ in range(2):
        before = contents(foreign)
        assert main(["-o", str(foreign), "-device", "cpu"]) == 1
        message = error(capsys)
        assert "-o" in message
        assert contents(foreign) == before
        (foreign / "empty" / "mine").write_text("mine")
    assert main(["-o", str(foreign / "empty" / "mine")]) == 1
    assert "found a file" in error(capsys)


def test_an_earlier_quickstart_is_made_anew(calls, capsys):
    Path("out").mkdir()  # empty: nothing to lose
    assert main(["-o", "out", "-device", "cpu"]) == 0
    before = contents(Path("out"))
    assert main(["-o", "out", "-device", "cpu"]) == 0
    after = contents(Path("out"))
    assert after.keys() == before.keys()
    log = "logs/1_nnUNetv2_plan_and_preprocess.log"
    assert after[log][0] > before[log][0]


def test_what_the_user_added_to_an_earlier_quickstart_stops_the_next(calls, capsys):
    assert main(["-o", "out", "-device", "cpu"]) == 0
    capsys.readouterr()
    mine = Path("out/nnUNet_results/Dataset001_SyntheticLA/nnUNetTrainer__nnUNetPlans__3d_fullres")
    mine.mkdir(parents=True)
    before = contents(Path("out"))
    assert main(["-o", "out", "-device", "cpu"]) == 1
    assert "nnUNet_results" in error(capsys)
    assert contents(Path("out")) == before


def test_a_failing_command_is_one_line(calls, capsys, monkeypatch):
    monkeypatch.setenv("STAND_IN_nnUNetv2_train", "fail")
    assert main(["-o", "out", "-device", "cpu"]) == 1
    message = error(capsys)
    assert "nnUNetv2_train failed (exit code 3)" in message
    assert "RuntimeError: the last meaningful line" in message
    log = Path("out/logs/2_nnUNetv2_train.log")
    assert str(log) in message
    assert "a worker that is being ended" in log.read_text()
    # and a failed quickstart can be started again
    monkeypatch.delenv("STAND_IN_nnUNetv2_train")
    assert main(["-o", "out", "-device", "cpu"]) == 0


def test_a_command_that_is_killed_says_so(calls, capsys, monkeypatch):
    monkeypatch.setenv("STAND_IN_nnUNetv2_train", "die")
    assert main(["-o", "out", "-device", "cpu"]) == 1
    assert "memory" in error(capsys)


def test_a_missing_command(calls, tmp_path, capsys, monkeypatch):
    (tmp_path / "bin" / "nnUNetv2_plan_and_preprocess").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["-o", "out", "-device", "cpu"]) == 1
    assert "nnUNetv2_plan_and_preprocess: found neither beside" in error(capsys)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("signal_name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_interrupting_ends_the_commands_and_their_workers(
    calls, tmp_path, capsys, monkeypatch, signal_name
):
    import signal

    if signal.getsignal(getattr(signal, signal_name)) is signal.SIG_IGN:
        pytest.skip(f"{signal_name} is ignored here (nohup)")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setenv("PIPE", str(pipe))
    monkeypatch.setenv("SIGNAL", str(int(getattr(signal, signal_name))))
    monkeypatch.setenv("STAND_IN_nnUNetv2_plan_and_preprocess", "hang")
    before = signal.getsignal(getattr(signal, signal_name))
    assert main(["-o", "out", "-device", "cpu"]) == 130
    assert capsys.readouterr().err == "Interrupted\n"
    assert signal.getsignal(getattr(signal, signal_name)) == before
    # The end of the pipe: nobody is left who holds it open.
    ready, _, _ = select.select([reader], [], [], 60)
    assert ready
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_progress_is_read_from_the_logs():
    # What nnU-Net 2.8.1 writes.
    log = ""
    expected = [
        ("Using device: cpu\n", "starting"),
        ("2026-01-01: This split has 9 training and 3 validation cases.\n", "starting"),
        ("2026-01-01 10:00:00.000001: Epoch 0 \n", "epoch 1 of 2"),
        ("2026-01-01 10:00:00.000001: Epoch time: 248.8 s\n", "epoch 1 of 2"),
        ("2026-01-01 10:00:00.000001: Epoch 1\n", "epoch 2 of 2"),
        ("2026-01-01 10:00:00.000001: predicting LA_1\n", "validating, case 1 of 3"),
        ("2026-01-01 10:00:00.000001: predicting LA_4\n", "validating, case 2 of 3"),
    ]
    for line, progress in expected:
        log += line
        assert commands.training_progress(2)(log) == progress

    log = "There are 6 cases that I would like to predict\n"
    assert commands.prediction_progress(log) == "starting"
    log += "\nPredicting LA_test_01:\nperform_everything_on_device: False\n"
    log += "  0%|          | 0/1 [00:00<?, ?it/s]\ndone with LA_test_01\n"
    assert commands.prediction_progress(log) == "case 1 of 6"

    assert commands.progress_bars("Fingerprint extraction...") == "starting"
    log = "Preprocessing cases:   0%|          | 0/12 [00:00<?, ?it/s]"
    log += "\rPreprocessing cases:   8%|▊         | 1/12 [00:10<02:00, 10.93s/it]"
    assert commands.progress_bars(log) == "Preprocessing cases, 1 of 12"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_one_line_that_changes(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "30")
    status = commands.Status()
    status.show("a text that is wider than the terminal")
    status.show("done")
    status.close()
    _, first, second = sys.stdout.getvalue().split("\r")
    assert first == "      a text that is wider th"
    assert second == "      done, 0:00".ljust(29) + "\n"


def test_a_file_gets_one_line_per_change(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    status = commands.Status()
    for text in ("starting", "starting", "epoch 1 of 2", "epoch 1 of 2", "done"):
        status.show(text)
    status.close()
    lines = [line.split(",")[0].strip() for line in sys.stdout.getvalue().splitlines()]
    assert lines == ["starting", "epoch 1 of 2", "done"]


def test_the_table_says_where_a_mean_is_missing_or_over_fewer_cases():
    def calibration(hd_1, hd_2):
        other = {m: {"mean": 0.12345, "n": 6, "n_undefined": 0} for m in quickstart.METRICS}
        return {
            "classes": {
                "1": {"name": "LA", "per_case": {**other, "hd": hd_1}},
                "(1, 2)": {"name": "heart", "per_case": {**other, "hd": hd_2}},
            }
        }

    good = {"mean": 12.3456, "n": 6, "n_undefined": 0}
    fewer = {"mean": 23.4, "n": 4, "n_undefined": 2}
    none = {"mean": None, "n": 0, "n_undefined": 6}
    table = quickstart.comparison_table(
        {"nnU-Net": calibration(good, fewer), "MEEP-KL": calibration(good, none)}
    )
    head, _, *lines = table.splitlines()
    assert head.split()[-4:] == ["nnU-Net", "MEEP-KL", "better", "is"]
    assert len(lines) == 2 * len(quickstart.METRICS)
    assert lines[0].split() == ["LA", "Dice", "0.123", "0.123", "higher"]
    assert lines[1].split()[-3:] == ["12.35", "12.35", "lower"]
    heart = [line for line in lines if line.startswith("heart")]
    assert len(heart) == 1
    hd = lines[1 + len(quickstart.METRICS)].split()
    assert hd[-4:] == ["23.40", "(n=4)", "undefined", "lower"]


def test_the_table_says_what_is_not_segmented():
    def calibration(dice, n_with_class):
        per_case = {m: {"mean": 0.5, "n": 6, "n_undefined": 0} for m in quickstart.METRICS}
        per_case["dice"] = {"mean": dice, "n": 6, "n_undefined": 0}
        per_case["brier_plus"] = {"mean": 0.5, "n": n_with_class, "n_undefined": 6 - n_with_class}
        return {"classes": {"1": {"name": "LA", "per_case": per_case}}}

    found = {
        "none": calibration(0.0, 6),
        "some": calibration(0.1, 6),
        "absent": calibration(0.0, 0),
    }
    _, _, first, *others = quickstart.comparison_table(found).splitlines()
    assert first.split() == [
        "LA",
        "Dice",
        "0.000",
        "(not",
        "segmented)",
        "0.100",
        "0.000",
        "higher",
    ]
    assert "not segmented" not in "".join(others)


def test_help_imports_nothing_heavy():
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\n"
            "from nnunet_meep.cli.quickstart import _get_parser\n"
            "_get_parser().format_help()\n"
            "assert not {'numpy', 'torch', 'nnunetv2'} & set(sys.modules)",
        ],
        check=True,
    )
