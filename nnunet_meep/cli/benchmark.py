"""``meep-benchmark``: trainers x seeds x folds, side by side, into one table."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run, say
from nnunet_meep.errors import InputError

if TYPE_CHECKING:
    from nnunet_meep.benchmark.run import Options

_EPILOG = """\
  meep-benchmark init 501 -o plan.toml      a plan for nnUNet_raw/Dataset501_*, commented
  meep-benchmark time plan.toml             how long the trainings will take on this machine
  meep-benchmark run plan.toml              train, predict, calibrate, evaluate, report; goes on
                                            where it was stopped
  meep-benchmark status plan.toml           what is done, running, failed and pending
  meep-benchmark commands plan.toml         what is pending, one line each, for any scheduler
  meep-benchmark report plan.toml           tables and pages of what is there so far

where it runs:
  meep-benchmark run plan.toml --jobs 2                 two trainings at a time on a CPU
  meep-benchmark run plan.toml --gpus 0,1 --per-gpu 3   three at a time on each of two GPUs
  meep-benchmark run plan.toml --slurm partition=gpu,gres=gpu:1,time=24:00:00
  meep-benchmark commands plan.toml | tr '\\n' '\\0' | xargs -0 -n 1 -P 2 sh -c

Everything but nnU-Net's own files goes into the folder PLAN (without .toml), or with --work into
that folder, then with nnUNet_raw, nnUNet_preprocessed and nnUNet_results in it, too:
  report/       the comparison of each data set: report.html, tables, pictures; results.csv.gz
  steps/        a record for each step that was begun
  logs/         what each command said
  predictions/, calibrators/, calibrated/, evaluations/

A step is done when its record says so and its outputs are as it left them. Stop it when you like
(Ctrl-C, a time limit, a power cut): the same command goes on, trainings with nnU-Net's --c. Several
runners may work on the same folder, also on several machines: they share the steps.
"""


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-benchmark",
        description=(
            "Does it help on my data? Trains nnU-Net's default and others with several seeds and\n"
            "folds, predicts, calibrates, evaluates and compares them, as a plan says."
        ),
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, summary: str, description: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=description,
            epilog=f"example:\n  meep-benchmark {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    inits = add(
        "init",
        "write a plan for a data set in nnUNet_raw",
        "Writes a plan, a commented TOML file: nnU-Net's default and two MEEP trainers with three\n"
        "seeds each. Nothing is trained.",
        "501 -o plan.toml",
    )
    _add_init(inits)
    times = add(
        "time",
        "prepare the data, time a few iterations, and tell how long the trainings take",
        "Tells how long the trainings of a plan will take on this machine: prepares the data as\n"
        "run does, and times a few iterations on each data set. Can be repeated after each change\n"
        "of the plan; what is prepared already stays.",
        "plan.toml",
    )
    _add_plan(times)
    _add_device(times)
    runs = add(
        "run",
        "run what is pending, then write the report",
        "Trains, predicts, calibrates, evaluates and compares what a plan says, and goes on where\n"
        "it was stopped. Shows each command as it begins ($), to be copied if need be.",
        "plan.toml --jobs 2",
    )
    _add_plan(runs)
    _add_machine(runs)
    runs.add_argument(
        "--only",
        nargs="+",
        metavar="STEP",
        default=[],
        help="only this training (DATA/TRAINER/fold_0) or step, and what it needs; no report",
    )
    runs.add_argument(
        "--slurm",
        metavar="OPTIONS",
        help="submit it to a cluster instead, as array jobs with these options of sbatch: "
        "partition=gpu,gres=gpu:1,time=24:00:00 (needs submitit)",
    )
    states = add(
        "status",
        "a table of what is done, running, failed, pending",
        "Shows how far each training of a plan is, why steps failed, and where the report is.\n"
        "Changes nothing, also while it runs.",
        "plan.toml",
    )
    _add_plan(states)
    lines = add(
        "commands",
        "what is pending, one line each",
        "Prints a command for each training that is not finished, for schedulers of any kind.",
        "plan.toml --gpus 0 > jobs.txt",
    )
    _add_plan(lines)
    _add_machine(lines)
    reports = add(
        "report",
        "tables and pages of what is there so far",
        "Writes the report of the trainings that are evaluated so far, also while others run.",
        "plan.toml",
    )
    _add_plan(reports)
    reports.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="report these results (report/results of another run) instead of those of the work "
        "folder",
    )
    return parser


def _add_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dataset", metavar="DATASET", help="its number or name in nnUNet_raw, such as 501"
    )
    parser.add_argument(
        "-o",
        type=Path,
        default=Path("plan.toml"),
        metavar="PLAN",
        help="the file to write (default: plan.toml)",
    )
    kinds = parser.add_mutually_exclusive_group()
    for paper, what in (("la", "the left atrium"), ("wmh", "white matter hyperintensities")):
        kinds.add_argument(
            f"--paper-{paper}",
            dest="paper",
            action="store_const",
            const=paper.upper(),
            help=f"the thirteen rows of Table 1 of the MEEP paper on {what}",
        )
    parser.add_argument(
        "--time",
        action="store_true",
        help="then do what meep-benchmark time does with the plan",
    )
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="as for run, with --time")
    _add_device(parser)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", type=Path, metavar="PLAN", help="the plan, a TOML file")
    parser.add_argument(
        "--work",
        type=Path,
        metavar="FOLDER",
        help="put everything in here, nnU-Net's folders too (default: PLAN without .toml, and "
        "nnU-Net's folders as your environment says)",
    )
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="[DATA=]FOLDER",
        help="where a plan's convert finds the original data; DATA= if there are several",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-device",
        "--device",
        choices=("cpu", "cuda", "mps"),
        help="as for nnUNetv2_train (default: cuda if there is a GPU, else cpu)",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    _add_device(parser)
    parser.add_argument(
        "--jobs",
        type=_at_least_one,
        metavar="N",
        help="trainings at a time on a CPU, which share its cores; beside a GPU, evaluations at a "
        "time (default: 1)",
    )
    parser.add_argument(
        "--gpus",
        default="",
        metavar="0,1",
        help="these GPUs, as PyTorch counts those that it sees (default: the first one)",
    )
    parser.add_argument(
        "--per-gpu",
        type=_at_least_one,
        metavar="N",
        help="trainings at a time on each GPU; small data sets do not fill one (default: 1)",
    )


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def main(args: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _get_parser().parse_args(args)
    actions = {
        **{"init": _init, "time": _time, "run": _run, "status": _status},
        **{"commands": _commands, "report": _report},
    }
    return run(lambda: actions[options.command](options))


def _options(arguments: argparse.Namespace) -> Options:
    from nnunet_meep.benchmark.plans.read_plan import read_plan
    from nnunet_meep.benchmark.run import Options

    machine = {
        name: getattr(arguments, name)
        for name in ("device", "jobs", "per_gpu")
        if hasattr(arguments, name)
    }
    gpus = (gpu.strip() for gpu in getattr(arguments, "gpus", "").split(","))
    return Options(
        plan=arguments.plan.absolute(),
        work=arguments.work and arguments.work.absolute(),
        sources=_sources(arguments.source, list(read_plan(arguments.plan).data)),
        gpus=tuple(gpu for gpu in gpus if gpu),
        **machine,
    )


def _sources(given: list[str], data: list[str]) -> dict[str, Path]:
    found = {}
    for text in given:
        name, _, folder = text.partition("=")
        if len(data) == 1 and name not in data:  # there may be a = in the folder's name
            name, folder = data[0], text
        if name not in data:
            raise InputError(
                f"--source {text}: expected DATA=FOLDER with a data set of the plan "
                f"({', '.join(data)})"
            )
        if not Path(folder).is_dir():
            raise InputError(f"{folder}: expected a folder with data, found none (--source)")
        found[name] = Path(folder).absolute()
    return found


def _init(arguments: argparse.Namespace) -> None:
    from nnunet_meep.benchmark.init import init

    init(arguments.dataset, arguments.o, paper=arguments.paper)
    if arguments.time:
        arguments.plan, arguments.source = arguments.o, []
        _time(arguments)


def _time(arguments: argparse.Namespace) -> None:
    from nnunet_meep.benchmark.estimate import tell_time

    tell_time(_options(arguments))


def _run(arguments: argparse.Namespace) -> None:
    from nnunet_meep.benchmark.run import run as run_plan

    options = _options(arguments)
    if arguments.slurm is not None:
        if arguments.only:
            raise InputError("--only: expected no --slurm with it, which submits the whole plan")
        _submit(options, arguments.slurm)
        return
    run_plan(options, arguments.only)


def _submit(options: Options, text: str) -> None:
    from nnunet_meep.benchmark.slurm import parse_options, submit

    submitted = submit(options, parse_options(text))
    for name, jobs in submitted.items():
        ids = jobs[0].job_id + (f" to {jobs[-1].job_id}" if len(jobs) > 1 else "")
        print(f"{name}: {len(jobs)} job{'s' * (len(jobs) != 1)}, {ids}")
    print(f"How they get on: meep-benchmark status {options.plan}")


def _status(arguments: argparse.Namespace) -> None:
    from nnunet_meep.benchmark.running.status import status_table

    print(status_table(_options(arguments).state(notes=False)))


def _commands(arguments: argparse.Namespace) -> None:
    from nnunet_meep.benchmark.running.status import pending_lines

    start = ["meep-benchmark", "run", str(arguments.plan)]
    for flag in ("work", "device", "jobs", "gpus", "per_gpu"):
        if value := getattr(arguments, flag):
            start += [f"--{flag.replace('_', '-')}", str(value)]
    for source in arguments.source:
        start += ["--source", source]
    stages = pending_lines(_options(arguments).state(notes=False))
    if not any(stages):
        say("Nothing is pending.")
    for stage in stages:
        for only in stage:
            line = shlex.join([*start, "--only", *only])
            if len(line.splitlines()) > 1:
                raise InputError(f"{line!r}: expected names without a line break in them")
            print(line)


def _report(arguments: argparse.Namespace) -> None:
    from nnunet_meep.benchmark.run import report

    report(_options(arguments).state(), arguments.results)
