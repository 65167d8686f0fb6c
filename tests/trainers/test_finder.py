"""nnU-Net's own search for trainers by name, in fresh processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_meep._autoload import EXTENSION_DIR

pytestmark = pytest.mark.slow  # each process imports all of nnU-Net's trainers

BASES = [
    "nnUNetTrainerDiceCE",
    "nnUNetTrainerMEEP_KL",
    "nnUNetTrainerMEEP_H",
    "nnUNetTrainerDice",
    "nnUNetTrainerDiceMEEP_KL",
    "nnUNetTrainerDiceMEEP_H",
    "nnUNetTrainerCE",
    "nnUNetTrainerCEMEEP_KL",
    "nnUNetTrainerCEMEEP_H",
    "nnUNetTrainerCP",
    "nnUNetTrainerDiceCP",
    "nnUNetTrainerCECP",
    "nnUNetTrainerFocal",
    "nnUNetTrainerFocalMEEP_KL",
    "nnUNetTrainerFocalMEEP_H",
    "nnUNetTrainerFocalCP",
]
OURS = [
    *BASES,
    *(f"{name}_50epochs_100iters_seed1_paper_fg0p9" for name in BASES),
    "nnUNetTrainerFocalMEEP_KL_lambda0p5_gamma3_2epochs",
    *(f"{name}_lambda0p25_5epochs" for name in BASES if "MEEP" in name),
]
NNUNETS = ["nnUNetTrainer", "nnUNetTrainer_50epochs", "nnUNetTrainerDiceLoss"]
USERS = "nnUNetTrainerDice_myversion"

SCRIPT = """
import json, os, pickle, sys
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

results = []
for by_hand, names in json.loads(sys.argv[1]):
    if by_hand:
        os.environ["nnUNet_extTrainer"] = by_hand
    found = {"nnUNet_extTrainer": os.environ.get("nnUNet_extTrainer")}
    for name in names:
        try:
            trainer = recursive_find_trainer_class_by_name(name)
        except (Exception, SystemExit) as error:
            found[name] = [type(error).__name__, str(error)]
            continue
        found[name] = [trainer.__name__, trainer.__module__]
        if trainer.__module__ == "nnunet_meep.trainers":
            assert pickle.loads(pickle.dumps(trainer)) is trainer
    results.append(found)
with open(sys.argv[2], "w") as file:
    json.dump(results, file)
"""

USERS_MODULE = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerDice_myversion(nnUNetTrainer):
    pass
"""


OWN_TRAINER = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "own-trainer.md"


def environment(**variables):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("nnUNet_", "NNUNET_"))}
    return {**clean, **variables}


def find(folder, *searches, **variables):
    """{name: [class, module] or [exception, message]} as nnU-Net finds them in a new process.

    Of each search, (what nnUNet_extTrainer is set to before it, or None; names).
    """
    subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(searches), str(folder / "found.json")],
        env=environment(**variables),
        check=True,
        timeout=600,
        stdout=subprocess.DEVNULL,
    )
    return json.loads((folder / "found.json").read_text())


@pytest.fixture
def users_folder(tmp_path):
    folder = tmp_path / "users trainers"
    folder.mkdir()
    (folder / "my_trainers.py").write_text(USERS_MODULE)
    example = re.search(
        r"^# A trainer of your own$.*?^```python$(.*?)^```$", OWN_TRAINER.read_text(), re.M | re.S
    )
    (folder / "from_the_readme.py").write_text(example[1])
    return str(folder)


def test_every_name_is_found_with_no_variable_set_and_nnunets_own_stay_nnunets(tmp_path):
    (found,) = find(tmp_path, (None, [*OURS, *NNUNETS, USERS]))
    for name in OURS:
        assert found[name] == [name, "nnunet_meep.trainers"]
    for name in NNUNETS:
        assert found[name][0] == name
        assert found[name][1].startswith("nnunetv2.training.nnUNetTrainer")
    assert found[USERS][0] == "RuntimeError"  # nnU-Net's own words for a name that nobody has
    assert f"Could not find requested nnunet trainer {USERS}" in found[USERS][1]


def test_a_users_own_folder_stays_in_front_and_is_searched_as_well(tmp_path, users_folder):
    names = [USERS, "nnUNetTrainerDA5_MEEP", "nnUNetTrainerMEEP_KL", "nnUNetTrainerDiceLoss"]
    (found,) = find(tmp_path, (None, names), nnUNet_extTrainer=users_folder)
    assert found["nnUNet_extTrainer"] == os.pathsep.join([users_folder, EXTENSION_DIR])
    assert found[USERS] == [USERS, "my_trainers"]
    assert found["nnUNetTrainerDA5_MEEP"] == ["nnUNetTrainerDA5_MEEP", "from_the_readme"]
    assert found["nnUNetTrainerMEEP_KL"] == ["nnUNetTrainerMEEP_KL", "nnunet_meep.trainers"]
    assert found["nnUNetTrainerDiceLoss"][1].startswith("nnunetv2.")


def test_switched_off_nothing_is_found_until_the_variable_is_set_by_hand(tmp_path, users_folder):
    value = os.pathsep.join([EXTENSION_DIR, users_folder])
    own = [USERS, "nnUNetTrainerDA5_MEEP"]
    searches = (None, ["nnUNetTrainerMEEP_KL"]), (value, [*OURS[:2], *own])
    off, by_hand = find(tmp_path, *searches, NNUNET_MEEP_AUTOLOAD="0")
    assert off["nnUNet_extTrainer"] is None
    assert off["nnUNetTrainerMEEP_KL"][0] == "RuntimeError"
    assert by_hand["nnUNet_extTrainer"] == value
    for name in OURS[:2]:
        assert by_hand[name] == [name, "nnunet_meep.trainers"]
    # The search goes on behind our folder, also for names that are like ours, but wrong.
    assert by_hand[own[0]] == [own[0], "my_trainers"]
    assert by_hand[own[1]] == [own[1], "from_the_readme"]


def test_the_stock_command_ends_at_a_wrong_name_with_one_line_and_exit_code_1():
    command = Path(sys.executable).with_name("nnUNetv2_train")
    name = "nnUNetTrainerMEEP_KL_lambda0p30"
    result = subprocess.run(
        [command, "999", "3d_fullres", "0", "-tr", name, "-device", "cpu"],
        env=environment(PYTHONWARNINGS="ignore"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr + result.stdout
    errors = [line for line in result.stderr.splitlines() if "nnUNetTrainerMEEP_KL" in line]
    assert len(errors) == 1
    assert errors[0].startswith(f"Error: {name}: 'lambda0p30'")
    assert result.stderr.rstrip().endswith(errors[0])
