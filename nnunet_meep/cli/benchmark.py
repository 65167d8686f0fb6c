"""``meep-benchmark``: compare trainers x seeds x folds on your data, in one report."""

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
  meep-benchmark init 501 -o plan.toml      write a commented plan for nnUNet_raw/Dataset501_*
  meep-benchmark time plan.toml             estimate how long the trainings take on this machine
  meep-benchmark run plan.toml              train, predict, calibrate, evaluate, report; continues
                                            after an interruption
  meep-benchmark status plan.toml           show what is done, running, failed and pending
  meep-benchmark commands plan.toml         print a command for each pending training, for any
                                            scheduler
  meep-benchmark report plan.toml           write tables and pages of the results so far

where it runs:
  meep-benchmark run plan.toml --jobs 2                 two trainings at a time on a CPU
  meep-benchmark run plan.toml --gpus 0,1 --per-gpu 3   three at a time on each of two GPUs
  meep-benchmark run plan.toml --slurm partition=gpu,gres=gpu:1,time=24:00:00
  meep-benchmark commands plan.toml | tr '\\n' '\\0' | xargs -0 -n 1 -P 2 sh -c

Everything except nnU-Net's own files goes into the folder PLAN (without .toml). With --work FOLDER,
everything goes into FOLDER, including nnUNet_raw, nnUNet_preprocessed and nnUNet_results:
  report/       the comparison of each data set: report.html, tables, pictures; results.csv.gz
  steps/        a record of each step that was started
  logs/         the output of each command
  predictions/, calibrators/, calibrated/, evaluations/

You can stop a run at any time (Ctrl-C, a time limit, a power cut) and continue with the same
command; trainings continue with nnU-Net's --c. A step is done when its record says so and its
outputs have not changed since. The command can run several times at once, also on several machines:
the runs share the steps.
"""


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-benchmark",
        description=(
            "Find out whether MEEP helps on your data. Trains nnU-Net's default and other\n"
            "trainers with several seeds and folds, predicts, calibrates, evaluates and compares,\n"
            "following a plan (a TOML file)."
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
        "Writes a plan, a commented TOML file, with nnU-Net's default and two MEEP trainers and\n"
        "three seeds each. Nothing is trained.",
        "501 -o plan.toml",
    )
    _add_init(inits)
    times = add(
        "time",
        "estimate how long the trainings take",
        "Estimates how long the trainings of a plan will take on this machine: prepares the data\n"
        "as run does, and times a few iterations on each data set. Repeat it after each change of\n"
        "the plan; data that are already prepared are not prepared again.",
        "plan.toml",
    )
    _add_plan(times)
    _add_device(times)
    runs = add(
        "run",
        "run all pending steps, then write the report",
        "Trains, predicts, calibrates, evaluates and compares as the plan says. An interrupted\n"
        "run continues where it stopped. Shows each command as it starts (after a $).",
        "plan.toml --jobs 2",
    )
    _add_plan(runs)
    _add_machine(runs)
    runs.add_argument(
        "--only",
        nargs="+",
        metavar="STEP",
        default=[],
        help="run only these trainings (DATA/TRAINER/fold_0) or steps, and the steps they need; "
        "write no report",
    )
    runs.add_argument(
        "--slurm",
        metavar="OPTIONS",
        help="submit array jobs to Slurm instead, with these sbatch options, for example "
        "partition=gpu,gres=gpu:1,time=24:00:00 (needs submitit)",
    )
    states = add(
        "status",
        "show what is done, running, failed and pending",
        "Shows how far each training of a plan is, why steps failed, and where the report is.\n"
        "Changes nothing; can be used while the plan is running.",
        "plan.toml",
    )
    _add_plan(states)
    lines = add(
        "commands",
        "print a command for each pending training",
        "Prints a command for each training that is not finished, for any scheduler.",
        "plan.toml --gpus 0 > jobs.txt",
    )
    _add_plan(lines)
    _add_machine(lines)
    reports = add(
        "report",
        "write tables and pages of the results so far",
        "Writes the report of the trainings that have been evaluated so far. Can be used while\n"
        "others are running.",
        "plan.toml",
    )
    _add_plan(reports)
    reports.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="report the results in this folder (report/results of another run) instead of those "
        "of this plan",
    )
    return parser


def _add_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="number or name of the data set in nnUNet_raw, such as 501",
    )
    parser.add_argument(
        "-o",
        type=Path,
        default=Path("plan.toml"),
        metavar="PLAN",
        help="the file to write, a new one (default: plan.toml)",
    )
    kinds = parser.add_mutually_exclusive_group()
    for paper, what in (("la", "the left atrium"), ("wmh", "white matter hyperintensities")):
        kinds.add_argument(
            f"--paper-{paper}",
            dest="paper",
            action="store_const",
            const=paper.upper(),
            help=f"plan for the thirteen rows of Table 1 of the MEEP paper ({what})",
        )
    parser.add_argument(
        "--time",
        action="store_true",
        help="then estimate how long the trainings take, like meep-benchmark time",
    )
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="with --time: as for meep-benchmark run"
    )
    _add_device(parser)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", type=Path, metavar="PLAN", help="the plan, a TOML file")
    parser.add_argument(
        "--work",
        type=Path,
        metavar="FOLDER",
        help="put everything into this folder, including nnU-Net's three folders (default: PLAN "
        "without .toml; nnU-Net's folders from the environment variables)",
    )
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="[DATA=]FOLDER",
        help="original data for the plan's 'convert' command; with several data sets, one --source "
        "DATA=FOLDER for each",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-device",
        "--device",
        choices=("cpu", "cuda", "mps"),
        help="device for training and prediction (default: cuda if there is a GPU, otherwise cpu)",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    _add_device(parser)
    parser.add_argument(
        "--jobs",
        type=_at_least_one,
        metavar="N",
        help="on a CPU: number of trainings at a time, which share the cores; with a GPU: number "
        "of evaluations at a time (default: 1)",
    )
    parser.add_argument(
        "--gpus",
        default="",
        metavar="0,1",
        help="numbers of the GPUs to use, as PyTorch counts visible GPUs (default: the first)",
    )
    parser.add_argument(
        "--per-gpu",
        type=_at_least_one,
        metavar="N",
        help="number of trainings at a time on each GPU; small data sets do not fill a GPU "
        "(default: 1)",
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
    status = ["meep-benchmark", "status", str(options.plan)]
    status += [] if options.work is None else ["--work", str(options.work)]
    print(f"How they get on: {shlex.join(status)}")


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
