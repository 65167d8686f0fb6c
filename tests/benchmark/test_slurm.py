"""Jobs of a cluster: what is submitted, and in which order it may run."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import DATASET, PLAN, TRAINERS, finish, prepared

from nnunet_meep.benchmark.run import Options
from nnunet_meep.benchmark.slurm import Line, parse_options, submit
from nnunet_meep.cli.benchmark import main
from nnunet_meep.errors import InputError

pytest.importorskip("submitit")
pytestmark = [
    pytest.mark.usefixtures("tables_only"),
    pytest.mark.skipif(os.name != "posix", reason="SLURM"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
SBATCH = """#!{python}
import json, re, sys
from pathlib import Path
log = Path(r"{log}")
calls = json.loads(log.read_text()) if log.exists() else []
script = Path(sys.argv[-1]).read_text()
calls.append(dict(re.findall(r"^#SBATCH --([\\w-]+)=(.*)$", script, re.MULTILINE)))
log.write_text(json.dumps(calls))
if "refused" in script:
    sys.exit("sbatch: error: Batch job submission failed: Invalid partition name specified")
print("Submitted batch job", 100 + len(calls))
"""


@pytest.fixture(autouse=True)
def _leftovers() -> Iterator[None]:
    """submitit leaves its log files and processes to the garbage collector, which warns of them."""
    yield
    gc.collect()


@pytest.fixture
def options(tmp_path) -> Options:
    (tmp_path / "plan.toml").write_text(PLAN)
    prepared(tmp_path / "work")
    return Options(tmp_path / "plan.toml", tmp_path / "work", device="cpu")


@pytest.fixture
def calls(tmp_path, monkeypatch) -> Path:
    """A cluster that takes every job and runs none; the options of each call."""
    bin_, log = tmp_path / "bin", tmp_path / "calls.json"
    bin_.mkdir()
    (bin_ / "sbatch").write_text(SBATCH.format(python=sys.executable, log=log))
    (bin_ / "srun").write_text("#!/bin/sh\n")
    for path in bin_.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    return log


def test_a_finished_plan_on_this_machine_is_reported(options) -> None:
    finish(options.state())
    submitted = submit(options, {"cluster": "debug"})
    assert list(submitted) == ["prepare", "report"]
    (job,) = submitted["report"]
    assert job.result() is None
    assert (options.work / "report" / "hip" / "comparison.json").is_file()


def test_jobs_of_a_fresh_plan_wait_for_each_other(options, calls, capsys) -> None:
    slurm = "partition=gpu,gres=gpu:1,time=24:00:00"
    command = ["run", str(options.plan), "--work", str(options.work), "--slurm", slurm]
    assert main(command) == 0
    prepare, train, report = json.loads(calls.read_text())
    for job in (prepare, train, report):
        assert (job["partition"], job["gres"], job["time"]) == ("gpu", "gpu:1", "24:00:00")
        assert job["open-mode"] == "append"
        assert job["output"].startswith(str(options.work / "slurm"))
    assert "dependency" not in prepare
    assert train["dependency"] == "afterok:101"
    assert train["kill-on-invalid-dep"] == "yes"
    assert report["dependency"] == "afterany:102"
    assert train["array"].startswith("0-3")
    assert [job["job-name"] for job in (prepare, train, report)] == [
        *("meep-prepare", "meep-train", "meep-report"),
    ]
    printed = capsys.readouterr().out
    assert re.search(r"^train: 4 jobs, 102_0 to 102_3$", printed, re.MULTILINE)
    assert f"meep-benchmark status {options.plan} --work {options.work}" in printed


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (DATASET, "Dataset009_Spleen", "expected nnU-Net raw data Dataset009_Spleen"),
        ("[calibrate]", "[evaluate]\nparts = 2\n\n[calibrate]", "first run it with --only hip/spl"),
    ],
)
def test_nothing_is_submitted_of_a_plan_that_cannot_run(options, calls, old, new, said) -> None:
    options.plan.write_text(PLAN.replace(old, new))
    shutil.rmtree(options.work / "nnUNet_preprocessed")
    with pytest.raises(InputError, match=re.escape(said)):
        submit(options, {"time": "1:00:00"})
    assert not calls.exists()


def test_parts_are_jobs_too(options, calls) -> None:
    options.plan.write_text(PLAN + "\n[evaluate]\nparts = 2\n")
    finish(options.state(), lambda key: key.endswith(("train", "predict")))
    submitted = submit(options, {"time": "1:00:00"})
    assert {name: len(jobs) for name, jobs in submitted.items()} == {
        **{"prepare": 1, "train": 4, "evaluate": 24, "join": 4, "report": 1},
    }
    jobs = json.loads(calls.read_text())
    dependencies = [job.get("dependency") for job in jobs]
    assert dependencies == [None, "afterok:101", *(f"afterany:{i}" for i in (102, 103, 104))]


def test_a_job_that_reached_its_time_limit_goes_on(options) -> None:
    line = Line(options, (f"hip/{TRAINERS[0]}_seed0/fold_0",))
    assert line.checkpoint().function == line


@pytest.mark.parametrize(
    ("slurm", "said"),
    [
        ({"partition": "gpu"}, "expected a time limit"),
        ({"cluster": "pbs"}, "pbs"),
        ({"time": "1:00:00", "partition": "refused"}, "Invalid partition name"),
    ],
)
def test_what_cannot_be_submitted_is_one_line(options, calls, slurm, said) -> None:
    with pytest.raises(InputError, match=said) as error:
        submit(options, slurm)
    assert "\n" not in str(error.value)


def test_a_folder_that_sbatch_would_change(options, calls) -> None:
    with pytest.raises(InputError, match="expected a work folder without %"):
        submit(replace(options, work=options.work.rename(options.work / "../100%j")), {"time": "1"})
    assert not calls.exists()


def test_no_cluster_here(options, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="submitit: "):
        submit(options, {"time": "1:00:00"})


@pytest.mark.slow
def test_a_failed_preparation_on_this_machine_ends_it(options) -> None:
    (options.work / "nnUNet_raw").rename(options.work / "gone")
    with pytest.raises(InputError, match="expected nnU-Net raw data"):
        submit(options, {"cluster": "local"})


def test_options_of_sbatch() -> None:
    text = " partition = gpu ,gres=gpu:1,time=1-00:00:00"
    assert parse_options(text) == {"partition": "gpu", "gres": "gpu:1", "time": "1-00:00:00"}
    for wrong in ("", "gpu", "partition=", "=gpu", "partition=gpu,,time=1", "nodelist=a,b"):
        with pytest.raises(InputError, match=r"--slurm .*expected options of sbatch"):
            parse_options(wrong)
