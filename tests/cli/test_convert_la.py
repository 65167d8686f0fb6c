"""``meep-convert-la``: usage, help, and a start without the heavy imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nnunet_meep.cli.convert_la import main


@pytest.mark.parametrize("number", ["0", "1000", "-1", "LA", "5.0", ""])
def test_a_number_outside_1_to_999_is_a_usage_error(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["somewhere", f"-d={number}"])
    assert stopped.value.code == 2
    assert "1 to 999" in capsys.readouterr().err


def test_help_shows_the_layouts_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    for expected in ("lgemri.nrrd", "mri_norm2.h5", "imagesTr", "example:", "terms of use"):
        assert expected in out


def test_starts_without_the_heavy_imports() -> None:
    code = (
        "import sys, nnunet_meep.cli.convert_la\n"
        "print({'torch', 'numpy', 'SimpleITK', 'h5py', 'nnunetv2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
