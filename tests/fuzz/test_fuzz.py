"""Thousands of damaged and odd inputs: each is refused in one line, or gives the right numbers.

``run.py`` says how to see what is wrong with one of them.
"""

import secrets
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")
#: Inputs for each process: one that a library ends takes no more than these with it.
AT_ONCE = 1_250


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "first" in metafunc.fixturenames:
        n = metafunc.config.getoption("--fuzz-inputs")
        metafunc.parametrize(
            ("first", "stop"), [(i, min(i + AT_ONCE, n)) for i in range(0, n, AT_ONCE)]
        )


@pytest.mark.slow
def test_each_input_is_refused_or_right(first: int, stop: int) -> None:
    _run(str(first), str(stop))


def test_inputs_never_seen_before(request: pytest.FixtureRequest) -> None:
    minutes = request.config.getoption("--fuzz-minutes")
    if not minutes:
        pytest.skip("only with --fuzz-minutes")
    _run(str(secrets.randbelow(10**12)), "--minutes", str(minutes))


def _run(*arguments: str) -> None:
    # A process of its own: a library may end it, and the number of the input then stands last.
    done = subprocess.run(
        [sys.executable, RUN, *arguments], capture_output=True, text=True, check=False
    )
    numbers = done.stderr.splitlines()
    assert not done.returncode, f"{done.stdout}\nthe last input was {numbers[-1]}"
