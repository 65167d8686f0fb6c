"""Run a benchmark as jobs of a cluster, through submitit.

One job prepares the data sets. Then each training is a job of an array, and each part of an
evaluation; the last job writes the report. The jobs share the steps of the work folder as any
runners do. A job that reaches its time limit is queued again, and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_meep.benchmark.run import Options, refuse_problems, report, run
from nnunet_meep.benchmark.running.status import pending_lines
from nnunet_meep.errors import InputError

#: How often a job may be queued again after its time limit.
_AGAIN = 1000
#: Minutes after which a job on this machine is stopped.
_LONG = 10**6


@dataclass(frozen=True)
class Line:
    """A job that runs a part of a plan."""

    options: Options
    only: tuple[str, ...]

    def __call__(self) -> None:
        run(self.options, self.only)

    def checkpoint(self) -> Any:
        """What submitit queues again after a time limit: the same, which goes on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass(frozen=True)
class Report:
    """A job that writes the report of what is there."""

    options: Options

    def __call__(self) -> None:
        report(self.options.state())


def parse_options(text: str) -> dict[str, str]:
    """``partition=gpu,gres=gpu:1,time=24:00:00`` as a dictionary.

    Raises:
        InputError: it is something else.
    """
    found = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not (name.strip() and equals and value.strip()):
            raise InputError(
                f"--slurm {text}: expected options of sbatch such as "
                f"partition=gpu,gres=gpu:1,time=24:00:00, got {part!r}"
            )
        found[name.strip()] = value.strip()
    return found


def submit(options: Options, slurm: Mapping[str, str]) -> dict[str, list[Any]]:
    """Submit what is pending.

    Args:
        options: paths in it have to be the same on all machines.
        slurm: options of ``sbatch``; ``cluster`` = ``local`` or ``debug`` runs the jobs on this
            machine instead.

    Returns:
        submitit's jobs by what they do: ``prepare``, ``train``, ``evaluate``, ``join``, ``report``.

    Raises:
        InputError: submitit is not installed, or the cluster refuses the jobs.
    """
    try:
        import submitit
    except ImportError:
        raise InputError(
            "submitit: expected it for --slurm, found none; pip install 'submitit>=1.5'"
        ) from None
    parameters = dict(slurm)
    cluster = parameters.pop("cluster", "slurm")
    if cluster == "slurm" and "time" not in parameters:
        raise InputError("--slurm: expected a time limit of each job too, such as time=24:00:00")
    state = options.state()
    refuse_problems(state)
    pending = list(pending_lines(state))
    folder = state.folders.work / "slurm"
    if "%" in str(folder) and cluster == "slurm":
        raise InputError(f"{folder}: expected a work folder without %, which sbatch would replace")
    submitted: dict[str, list[Any]] = {}
    last: list[Any] = []

    def batch(name: str, jobs: Sequence[Callable[[], None]], *, need: str) -> None:
        nonlocal last
        if not jobs:
            return
        executor = submitit.AutoExecutor(folder, cluster, slurm_max_num_timeout=_AGAIN)
        more = dict(parameters)
        if last and cluster == "slurm":
            ids = ":".join(dict.fromkeys(job.job_id.split("_")[0] for job in last))
            more["dependency"] = f"{need}:{ids}"
            more["kill-on-invalid-dep"] = "yes"  # else trainings wait for ever if it failed
        for job in last if cluster != "slurm" else ():  # other jobs do not wait for each other
            if need == "afterok":
                job.result()
            job.wait()
        executor.update_parameters(
            name=f"meep-{name}",
            slurm_additional_parameters=more,
            **({} if cluster == "slurm" else {"timeout_min": _LONG}),
        )
        with executor.batch():
            submitted[name] = [executor.submit(job) for job in jobs]
        last = submitted[name]

    try:
        names = list(dict.fromkeys(training.data for training in state.trainings))
        batch("prepare", [Line(options, tuple(f"{n}/splits" for n in names))], need="")
        for name, lines in zip(("train", "evaluate", "join"), pending, strict=True):
            jobs = [Line(options, tuple(only)) for only in lines]
            batch(name, jobs, need="afterok" if name == "train" else "afterany")
        batch("report", [Report(options)], need="afterany")
    except (RuntimeError, OSError, ValueError) as error:  # the last one of an unknown cluster
        said = str(error).rpartition(f"{InputError.__name__}: ")[2]  # the end of a job's traceback
        raise InputError(f"submitit: {' '.join(said.split())}") from None
    return submitted
