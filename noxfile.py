"""Every promise of pyproject.toml, each in an environment of its own: ``nox -s lowest``.

Interpreters that are missing are downloaded if uv is installed, or else left out. An environment
with PyTorch takes about 6 GB; with uv, environments share their files.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "tests", "docs", "package"]

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
#: nnU-Net's own search finds a trainer of ours, for which the .pth has to be in its place.
FIND = (
    "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find\n"
    "print(find('nnUNetTrainerMEEP_H_lambdaauto'))"
)
#: As in .ci/run: one torch thread for each test process, few workers of nnU-Net's own.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "2"}


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests; arguments go to pytest: nox -s tests-3.12 -- --cov."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "2", *session.posargs, env=ENVIRONMENT)


@nox.session(python="3.10", venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """The lowest versions that pyproject.toml allows.

    Without fiducio, netcal, relplot and MONAI, which need newer ones: tests that compare with them
    are skipped.
    """
    # torch 2.6's Triton imports setuptools, which uv does not put into an environment.
    tools = ("pytest>=8", "pytest-xdist>=3.8", "hypothesis>=6.100", "setuptools>=70")
    session.install("--resolution", "lowest-direct", "-e", ".", *tools)
    # Old versions call what newer ones of their own dependencies warn of.
    warned = ("-W", "default")
    session.run("pytest", "-n", "2", *warned, *session.posargs, env=ENVIRONMENT)


@nox.session(python=PYTHONS[-1], venv_backend="uv")
def newest(session: nox.Session) -> None:
    """The newest versions of all packages, also where an environment is used again."""
    session.install("--upgrade", "--resolution", "highest", "-e", ".[test]")
    session.run("pytest", "-n", "2", *session.posargs, env=ENVIRONMENT)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, spelling, and types, for which the libraries have to be here."""
    session.install("-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, in build/site; a warning is an error."""
    session.install("-e", ".[test,docs]")
    session.run("sphinx-build", "-E", "-W", "--keep-going", "-n", "docs", "build/site")


@nox.session
def package(session: nox.Session) -> None:
    """Wheel and sdist: what they hold, and whether the wheel works where nothing else is."""
    session.install("build", "twine")
    dist = Path(session.create_tmp(), "dist").resolve()
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist))
    files = sorted(map(str, dist.iterdir()))
    session.run("twine", "check", "--strict", *files)
    session.run("python", ".ci/check_package.py", str(dist))
    session.install(*(file for file in files if file.endswith(".whl")))
    session.chdir(dist)  # so that the installation is tested, not the repository
    session.run("meep-trainers", "--version-info")
    session.run("python", "-c", FIND)
