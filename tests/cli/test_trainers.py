"""``meep-trainers``: the table, explanations, and answers to names that are not right."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

import nnunet_meep
from nnunet_meep.cli.trainers import main
from nnunet_meep.trainers import grammar, names, others

LONG_NAME = "nnUNetTrainerFocalMEEP_H_lambda0p15_gamma3_7epochs_9iters_seed4_paper_fg0p25"


@pytest.fixture
def answer(capsys):
    """``answer(name, ...)``: exit code, standard output, lines on standard error."""

    def ask(*arguments):
        code = main(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err.splitlines()

    return ask


def flat(text):
    return " ".join(text.split())


def test_without_a_name_one_screen_has_each_trainer_with_its_lambda_and_each_option(answer):
    code, out, err = answer()
    assert (code, err) == (0, [])
    assert len(out.splitlines()) <= 45
    words = flat(out)
    for loss, meaning in grammar.SEGMENTATION_LOSSES.items():
        assert flat(f"{loss} {meaning}") in words
    named = [names.parse(name) for name in grammar.base_names()]
    terms = words.partition("followed by a term: ")[2].partition(" Then options")[0]
    for term, found in grammar.TERMS.items():
        # "0.3, with CE and Focal 0.1, with Dice 0.5" or "0.1; not with Dice and Focal"
        said = terms.partition(f"{term} {flat(found.meaning)}; default lambda ")[2]
        said = re.split(rf" (?:{'|'.join(grammar.TERMS)}) ", said)[0]
        weights, _, without = said.partition("; not with ")
        usual, *others = weights.split(", with ")
        told = dict.fromkeys(grammar.SEGMENTATION_LOSSES, usual)
        for other in others:
            *listed, weight = re.findall(r"[\w.]+", other)
            told |= dict.fromkeys(set(listed) - {"and"}, weight)
        refused = re.findall(r"\w+", without)
        told = {loss: float(weight) for loss, weight in told.items() if loss not in refused}
        assert told == {e.segmentation_loss: e.weight for e in named if e.term == term}
    for option in grammar.OPTIONS.values():
        assert flat(f"{option.example} {option.meaning}") in words
    assert grammar.EXAMPLE in words


@pytest.mark.parametrize("name", [*grammar.base_names(), LONG_NAME])
def test_a_right_name_is_explained_in_the_words_of_the_grammar(answer, name):
    code, out, err = answer(name)
    assert (code, err) == (0, [])
    first, *lines = out.splitlines()
    assert first == name
    explanation = names.explain(names.parse(name))
    for aspect, words in explanation.items():
        assert flat(f"{aspect} {words}") in flat(out)
    column = max(map(len, explanation)) + 4  # where every line's text begins
    for line in lines:
        assert re.fullmatch(r"  \S.*  |\s*", line[:column])
        assert line[column] != " "
        assert len(line) <= 88 or "results folder" in line


def test_names_are_explained_one_after_the_other_also_around_wrong_ones(answer):
    wrong, foreign = "nnUNetTrainerMEEP_KL_lambda0p30", "nnUNetTrainerDA5"
    code, out, err = answer("nnUNetTrainerCE", wrong, foreign, "nnUNetTrainerDiceMEEP_H")
    assert code == 1
    right = ("nnUNetTrainerCE", foreign, "nnUNetTrainerDiceMEEP_H")
    assert out == "".join(answer(name)[1] for name in right)
    assert answer(*right)[0] == 0
    (line,) = err
    assert line.startswith("Error: ")
    assert wrong in line


def test_a_wrong_name_of_ours_is_answered_with_the_words_of_the_grammar(answer):
    name = "nnUNetTrainerDiceMEEP_KL_50epochs_lambda0p3"
    with pytest.raises(names.TrainerNameError) as error:
        names.parse(name)
    assert answer(name) == (1, "", [f"Error: {error.value}"])
    assert "nnUNetTrainerDiceMEEP_KL_lambda0p3_50epochs" in str(error.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("nnUNetTrainerMEPP_KL", "nnUNetTrainerMEEP_KL"),
        ("nnUNetTrainerMPEE_KL", "nnUNetTrainerMEEP_KL"),
        ("nnUNetTrainerMEP_H_lambda0p2", "nnUNetTrainerMEEP_H_lambda0p2"),
        ("nnUNetTrainerCEMEPP_H_lambda0.30_50epoch", "nnUNetTrainerCEMEEP_H_lambda0p3_50epochs"),
        ("MEEP_KL", "nnUNetTrainerMEEP_KL"),
        ("MEEP", "nnUNetTrainerMEEP_KL"),
        ("DiceMEEP_KL_50epochs", "nnUNetTrainerDiceMEEP_KL_50epochs"),
        ("nnunettrainerMEEP_KL", "nnUNetTrainerMEEP_KL"),
        ("nnUNet_TrainerDiceMEEP_KL", "nnUNetTrainerDiceMEEP_KL"),
        ("nnUNetTrianerMEEP_KL_lambda0p15", "nnUNetTrainerMEEP_KL_lambda0p15"),
        ("nnUNetTrainrCE_5epochs", "nnUNetTrainerCE_5epochs"),
        ("nnUNetTrainerFokal_gamma3", "nnUNetTrainerFocal_gamma3"),
        ("nnUNetTrainerDicee_5epochs", "nnUNetTrainerDiceCE_5epochs"),
        ("nnUNetTrainerFokal_gama3_60epohcs", "nnUNetTrainerFocal_gamma3_60epochs"),
        ("nnUNetTrainerDice_60Epochs_seed_4", "nnUNetTrainerDice_60epochs_seed4"),
        ("nnUNetTrainerDice_epochs60", "nnUNetTrainerDice_60epochs"),
        ("nnUNetTrainer_seed4", "nnUNetTrainerDiceCE_seed4"),
        ("nnUNetTrainer_60epochs_seed4", "nnUNetTrainerDiceCE_60epochs_seed4"),
        ("nnUNetTrainer_lambdaauto", "nnUNetTrainerMEEP_KL_lambdaauto"),
        ("nnUNetTrainer_60epohcs", "nnUNetTrainerDiceCE_60epochs"),
    ],
)
def test_a_name_like_ours_that_is_not_is_answered_with_the_one_that_is_meant(answer, name, meant):
    assert names.parse(name) is None
    assert names.parse(meant) is not None
    code, out, (line,) = answer(name)
    assert (code, out) == (1, "")
    assert line.startswith(f"Error: '{name}' ")
    assert "nnUNet_extTrainer" in line
    assert line.endswith(f" {meant}")


def nnunets_own():
    folder = Path(importlib.util.find_spec("nnunetv2").origin).parent / "training/nnUNetTrainer"
    files = (file.read_text("utf-8") for file in folder.rglob("*.py"))
    return {name for text in files for name in re.findall(r"^class (\w+)", text, re.M)}


USERS_OWN = [
    "nnUNetTrainerDice_v2",
    "nnUNetTrainerDice_myversion_50epochs",
    "nnUNetTrainerDice_50epochs_v2",
    "nnUNetTrainerDice_60epohcs_v2",
    "nnUNetTrainerDiceMyIdea_50epochs",
    "nnUNetTrainer_300epochs",
    "nnUNetTrainer_seed4_v2",
    "nnUNetTrainer_seed",
    "nnUNetTrainerBS",
    "nnUNetTrainerCE_noMirroring",
    "nnUNetTrainerTversky",
    "nnUNetTrainr_50epochs",
    "resnet",
    "",
]


def test_a_name_that_nobody_has_is_wrong_also_without_a_suggestion(answer):
    code, out, lines = answer(*USERS_OWN)
    assert (code, out) == (1, "")
    for name, line in zip(USERS_OWN, lines, strict=True):
        assert line.startswith(f"Error: {name!r} is no name of nnunet-meep, of nnU-Net or")
        assert "nearest" not in line


def test_nnunets_own_trainers_are_left_to_it(answer):
    others = sorted(nnunets_own())
    assert {"nnUNetTrainer", "nnUNetTrainerDiceLoss", "nnUNetTrainer_50epochs"} <= set(others)
    code, out, err = answer(*others)
    assert (code, err) == (0, [])
    for name, line in zip(others, out.splitlines(), strict=True):
        assert f"'{name}'" in line
        assert "left to nnU-Net" in line
        assert "nearest" not in line


def test_a_name_like_ours_that_a_folder_of_the_users_has_is_nnunets(answer, tmp_path, monkeypatch):
    name = "nnUNetTrainerDA5_MEEP"
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    assert answer(name)[0] == 1
    (tmp_path / "mine_of_test_trainers.py").write_text(f"class {name}: pass\n")
    assert answer(name) == (
        0,
        f"{name!r} is no name of nnunet-meep: nnU-Net finds it in {tmp_path}\n",
        [],
    )
    assert answer("nnUNetTrainerDA6_MEEP")[0] == 1
    (tmp_path / "mine_of_test_trainers.py").write_text("1 / 0\n")
    code, _, (error,) = answer(name)
    assert code == 1
    assert error.startswith(f"Error: {tmp_path}: expected trainers")


@pytest.mark.parametrize(
    "arguments", [[], ["nnUNetTrainerMEEP_KL"], ["nnUNetTrainerMEEP"], ["nnUNetTrainerDA5", "MEEP"]]
)
def test_an_answer_needs_nothing_but_the_standard_library(arguments):
    script = (
        "import sys\n"
        "for name in ('torch', 'nnunetv2', 'numpy', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"  # any import of it raises
        "from nnunet_meep.cli.trainers import main\n"
        f"sys.exit(main({arguments!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == (0 if arguments in ([], ["nnUNetTrainerMEEP_KL"]) else 1)
    assert "Traceback" not in done.stderr


def info(text):
    """{name: value} of lines in two columns, which are aligned."""
    rows = dict(line.split(maxsplit=1) for line in text.splitlines())
    column = max(map(len, rows)) + 2
    for line in text.splitlines():
        assert line[column - 2 : column] == "  "
        assert line[column] != " "
    return rows


def test_version_info_says_what_a_report_of_a_bug_needs(answer, monkeypatch, tmp_path):
    home = tmp_path / "home.of.user"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("nnUNet_raw", str(home / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", f"{home}_of_another")
    monkeypatch.delenv("nnUNet_results", raising=False)
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(home), "/mnt", f"{home}/mine"]))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"Some GPU {i + 7}")
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    code, out, err = answer("--version-info")
    assert (code, err) == (0, [])
    shown = info(out)
    assert shown.pop("platform") == platform.platform()
    assert shown.pop("devices").startswith("cuda:0 Some GPU 7, cuda:1 Some GPU 8, ")
    assert shown == {
        "nnunet-meep": nnunet_meep.__version__,
        **{name: version(name) for name in ("nnunetv2", "torch", "numpy", "SimpleITK")},
        "CUDA": "12.6",
        "Python": ".".join(map(str, sys.version_info[:3])),
        "nnUNet_raw": "~/raw",
        "nnUNet_preprocessed": f"{home}_of_another",
        "nnUNet_results": "not set",
        "nnUNet_extTrainer": os.pathsep.join(["~", "/mnt", "~/mine"]),
    }


def test_version_info_of_a_broken_installation_says_what_is_broken(answer, monkeypatch):
    def no_version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("importlib.metadata.version", no_version)
    code, out, err = answer("--version-info")
    assert (code, err) == (0, [])
    assert info(out)["nnunetv2"] == "not installed"
    assert info(out)["devices"].startswith("torch cannot be imported: ModuleNotFoundError")


def test_version_info_and_names_do_not_go_together(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version-info", "nnUNetTrainerMEEP_KL"])
    assert end.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], [LONG_NAME]])
def test_a_reader_that_has_gone_is_no_error(arguments):
    script = f"from nnunet_meep.cli.trainers import main; raise SystemExit(main({arguments}))"
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (141, "")


def test_another_copy_of_this_package_has_no_trainers_of_others(tmp_path, monkeypatch) -> None:
    """An environment may inherit the variable from one with a copy of its own."""
    ours = Path(nnunet_meep.__file__).parent / "trainers" / "extension"
    copy = shutil.copytree(ours, tmp_path / "extension")
    mine = tmp_path / "mine"
    mine.mkdir()
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(map(str, (copy, mine, ours))))
    assert others.external_folders() == others.folders_behind_ours() == [str(mine)]
