"""How nnU-Net learns where the trainers are, at each start of Python, and when it is left alone.

These tests need the package installed (``pip install`` or ``pip install -e``): Python reads the
.pth file from site-packages only.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_meep import _autoload

VARIABLE = "nnUNet_extTrainer"
SWITCH = "NNUNET_MEEP_AUTOLOAD"
PTH = "nnunet_meep_trainers.pth"
PACKAGE = Path(_autoload.__file__).resolve().parent
EXTENSION = str(PACKAGE / "trainers" / "extension")


def python(script, *options, **environment):
    """Run a script in a fresh Python without our two variables, except those given."""
    clean = {k: v for k, v in os.environ.items() if k not in (VARIABLE, SWITCH)}
    return subprocess.run(
        [sys.executable, *options, "-c", script],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def variable_after_start(*options, **environment):
    """The value of nnUNet_extTrainer in a fresh Python, None if unset."""
    result = python(
        f"import json, os; print(json.dumps(os.environ.get({VARIABLE!r})))",
        *options,
        **environment,
    )
    assert result.stderr == ""
    assert result.returncode == 0
    return json.loads(result.stdout)


def join(*paths):
    return os.pathsep.join(paths)


def test_a_fresh_python_knows_the_directory():
    assert _autoload.EXTENSION_DIR == EXTENSION
    assert variable_after_start() == EXTENSION
    assert variable_after_start(**{VARIABLE: ""}) == EXTENSION


def test_the_directory_holds_one_module_and_nothing_else():
    files = [path.name for path in Path(EXTENSION).iterdir() if path.name != "__pycache__"]
    assert files == ["nnunet_meep_trainers.py"]


def test_what_the_user_has_put_there_stays_in_front(tmp_path):
    assert variable_after_start(**{VARIABLE: str(tmp_path)}) == join(str(tmp_path), EXTENSION)
    both = join("/first", str(tmp_path))
    assert variable_after_start(**{VARIABLE: both}) == join(both, EXTENSION)


def test_a_directory_that_is_there_already_keeps_its_place(tmp_path):
    for value in (EXTENSION, join(EXTENSION, str(tmp_path)), join(str(tmp_path), EXTENSION)):
        assert variable_after_start(**{VARIABLE: value}) == value


def test_a_child_of_a_child_does_not_add_it_again(tmp_path):
    inner = f"import os; print(os.environ[{VARIABLE!r}])"
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {middle!r}])"
    result = python(outer, **{VARIABLE: str(tmp_path)})
    assert result.stdout.strip() == join(str(tmp_path), EXTENSION)


@pytest.mark.parametrize("off", ["0", "false", "False", "no", "off", " 0 "])
def test_the_switch_leaves_the_variable_alone(off, tmp_path):
    assert variable_after_start(**{SWITCH: off}) is None
    assert variable_after_start(**{SWITCH: off, VARIABLE: str(tmp_path)}) == str(tmp_path)


@pytest.mark.parametrize("on", ["1", "true", ""])
def test_the_switch_on_changes_nothing(on):
    assert variable_after_start(**{SWITCH: on}) == EXTENSION


def test_a_python_without_site_packages_is_left_alone():
    assert variable_after_start("-S") is None


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv(SWITCH, raising=False)
    return monkeypatch


def test_register_appends_once(environment, tmp_path, capsys):
    environment.setenv(VARIABLE, "/mine")
    for _ in range(2):
        _autoload.register(directory=str(tmp_path))
        assert os.environ[VARIABLE] == join("/mine", str(tmp_path))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("before", [None, "/mine"])
def test_a_missing_directory_is_one_line_on_stderr_and_no_change(
    environment, tmp_path, capsys, before
):
    if before:
        environment.setenv(VARIABLE, before)
    missing = str(tmp_path / "missing")
    _autoload.register(directory=missing)
    assert os.environ.get(VARIABLE) == before
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert missing in output.err
    assert SWITCH in output.err


@pytest.mark.parametrize("before", [None, "/mine"])
def test_a_path_with_the_separator_in_it_is_one_line_on_stderr_and_no_change(
    environment, tmp_path, capsys, before
):
    if before:
        environment.setenv(VARIABLE, before)
    directory = tmp_path / f"a{os.pathsep}b"
    try:
        directory.mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    _autoload.register(directory=str(directory))
    assert os.environ.get(VARIABLE) == before
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert str(directory) in output.err


def test_switched_off_it_is_silent_about_problems(environment, tmp_path, capsys):
    environment.setenv(SWITCH, "0")
    _autoload.register(directory=str(tmp_path / "missing"))
    assert VARIABLE not in os.environ
    assert capsys.readouterr() == ("", "")


def test_a_python_start_imports_nothing_but_os_and_sys():
    script = (
        "import os, sys\n"
        f"sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
        "before = set(sys.modules)\n"
        "import nnunet_meep._autoload\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    result = python(script, "-S", "-I")
    assert result.stdout.split() == ["nnunet_meep", "nnunet_meep._autoload"]
    assert result.stderr == ""


def test_the_installation_puts_the_pth_file_where_python_reads_it():
    installed = [file for file in importlib.metadata.files("nnunet-meep") or [] if file.name == PTH]
    assert [str(file) for file in installed] == [PTH]  # in the root of site-packages


def test_the_pth_file_is_one_line_that_survives_a_package_that_is_gone():
    pth = Path(importlib.metadata.distribution("nnunet-meep").locate_file(PTH))
    line = pth.read_text(encoding="utf-8")
    assert line.startswith("import ")  # else Python takes it for a path
    assert len(line.splitlines()) == 1
    result = python(line, "-S", "-I")
    assert result.returncode == 0
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "nnunet-meep" in result.stderr


def test_the_pth_file_of_the_repository_is_the_installed_one():
    pth = Path(importlib.metadata.distribution("nnunet-meep").locate_file(PTH))
    source = PACKAGE.parent / PTH
    if not source.exists():
        pytest.skip("not installed from a checkout")
    assert source.read_text("utf-8") == pth.read_text("utf-8")


OTHER_ENVIRONMENT = f"""
import sys
sys.path.insert(0, {EXTENSION!r})
import importlib.util
assert importlib.util.find_spec("nnunet_meep") is None
import nnunet_meep_trainers as module
for name in (
    "nnUNetTrainerMEEP_KL", "nnUNetTrainerMEEP_KL_lambda0p30", "nnUNetTrainerDice_mine", "x"
):
    assert hasattr(module, name) is False, name
try:
    module.nnUNetTrainerMEEP_KL
except AttributeError as error:
    assert "nnUNetTrainerMEEP_KL" in str(error)
print("fine")
"""


def test_an_environment_without_the_package_that_inherits_the_variable_finds_no_name_there():
    result = python(OTHER_ENVIRONMENT, "-S", "-I", **{VARIABLE: EXTENSION})
    assert (result.stdout, result.stderr) == ("fine\n", "")


THIS_ENVIRONMENT = f"""
import sys
sys.path.insert(0, {EXTENSION!r})
import nnunet_meep_trainers as module
for name in ("nnUNetTrainerDice_mine", "nnUNetTrainerDiceLoss", "nnUNetTrainer", "x"):
    assert hasattr(module, name) is False, name
try:
    hasattr(module, "nnUNetTrainerMEEP_KL_lambda0p30")
except SystemExit as error:
    print(error.code)
"""


def test_the_scanned_module_has_no_foreign_name_and_ends_with_one_line_at_a_wrong_name_of_ours():
    result = python(THIS_ENVIRONMENT)
    assert result.stderr == ""
    (line,) = result.stdout.splitlines()
    assert line.startswith("Error: nnUNetTrainerMEEP_KL_lambda0p30: 'lambda0p30'")


@pytest.mark.parametrize("name", ["nnUNetTrainer_seed4", "nnUNetTrainerDA5_MEEP"])
@pytest.mark.parametrize("behind", ["nothing", "others", "it", "what cannot be imported"])
def test_a_wrong_or_misspelt_name_is_answered_unless_a_folder_behind_ours_has_it(
    name, behind, tmp_path
):
    content = {"others": "class Other: pass", "it": f"class {name}: pass"}.get(behind, "1 / 0")
    (tmp_path / "mine.py").write_text(content)
    script = (
        f"import os, sys; sys.path.insert(0, {EXTENSION!r})\n"
        "import nnunet_meep_trainers as module\n"
        f"print(hasattr(module, {name!r}))\n"
    )
    folders = [EXTENSION, *[str(tmp_path)] * (behind != "nothing"), "/nowhere", ""]
    result = python(script, **{VARIABLE: join(*folders)})
    if behind in ("nothing", "others"):
        assert result.returncode == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith("Error: ")
        assert name in line
        assert "nearest right name" in line
    else:  # nnU-Net's search goes on
        assert (result.stdout, result.stderr) == ("False\n", "")


@pytest.mark.parametrize("name", ["__path__", "names", "parse", "TrainerNameError", "__all__"])
def test_the_scanned_module_passes_on_trainers_and_nothing_else(name):
    script = (
        f"import sys; sys.path.insert(0, {EXTENSION!r})\n"
        "import nnunet_meep_trainers as module\n"
        f"print(hasattr(module, {name!r}))\n"
    )
    assert python(script).stdout == "False\n"


def test_a_package_with_a_missing_part_is_not_taken_for_a_missing_package():
    script = (
        f"import sys; sys.path.insert(0, {EXTENSION!r})\n"
        "sys.modules['nnunet_meep.trainers.names'] = None  # any import of it raises\n"
        "import nnunet_meep_trainers as module\n"
        "try:\n"
        "    hasattr(module, 'nnUNetTrainerMEEP_KL')\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error.name)\n"
    )
    assert python(script).stdout == "nnunet_meep.trainers.names\n"
