"""``meep-benchmark``: trainers x seeds x folds, side by side, into one table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import ended_like_ctrl_c, run
from nnunet_meep.errors import InputError

if TYPE_CHECKING:
    from nnunet_meep.benchmark.plans.plan import Plan
    from nnunet_meep.benchmark.running.state import State
    from nnunet_meep.benchmark.running.watch import Watch

_EPILOG = """\
  meep-benchmark init 501 -o plan.toml      a plan for nnUNet_raw/Dataset501_*, commented
  meep-benchmark run plan.toml              train, predict, calibrate, evaluate, report; goes on
                                            where it was stopped
  meep-benchmark status plan.toml           what is done, running, failed and pending
  meep-benchmark commands plan.toml         what is pending, one line each, for any scheduler
  meep-benchmark report plan.toml           tables and pages of what is there so far

Everything but nnU-Net's own files goes into the folder PLAN (without .toml), or with --work into
that folder, then with nnUNet_raw, nnUNet_preprocessed and nnUNet_results in it, too:
  report/       the comparison of each data set: report.html, tables, pictures; results.csv
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
    runs = commands.add_parser("run", help="run what is pending, then write the report")
    _add_plan(runs)
    _add_machine(runs)
    runs.add_argument(
        "--only",
        nargs="+",
        metavar="STEP",
        default=[],
        help="only this training (DATA/TRAINER/fold_0) or step, and what it needs; no report",
    )
    states = commands.add_parser("status", help="a table of what is done, running, failed, pending")
    _add_plan(states)
    lines = commands.add_parser("commands", help="what is pending, one line each")
    _add_plan(lines)
    _add_machine(lines)
    return parser


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


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-device",
        "--device",
        choices=("cpu", "cuda", "mps"),
        help="as for nnUNetv2_train (default: cuda if there is a GPU, else cpu)",
    )
    parser.add_argument(
        "--jobs",
        type=_at_least_one,
        metavar="N",
        help="trainings at a time on a CPU, which share its cores; beside a GPU, evaluations at a "
        "time (default: 1)",
    )
    parser.add_argument(
        "--gpus", default="", metavar="0,1", help="these GPUs (default: the one PyTorch takes)"
    )
    parser.add_argument(
        "--per-gpu",
        type=_at_least_one,
        default=1,
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
    actions = {"run": _run, "status": _status, "commands": _commands}
    return run(lambda: actions[options.command](options))


def _state(options: argparse.Namespace) -> State:
    from nnunet_meep.benchmark.plans.read_plan import read_plan
    from nnunet_meep.benchmark.running.folders import Folders
    from nnunet_meep.benchmark.running.state import State

    plan = read_plan(options.plan)
    folders = Folders.of(options.plan, options.work)
    state = State(
        plan,
        folders,
        sources=_sources(options.source, plan),
        only=getattr(options, "only", ()),
    )
    state.update()
    return state


def _sources(given: list[str], plan: Plan) -> dict[str, Path]:
    found = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals:
            if len(plan.data) > 1:
                raise InputError(
                    f"--source {text}: expected DATA=FOLDER with one of {', '.join(plan.data)}"
                )
            name, folder = next(iter(plan.data)), text
        if name not in plan.data:
            raise InputError(
                f"--source {text}: expected a data set of the plan ({', '.join(plan.data)})"
            )
        if not Path(folder).is_dir():
            raise InputError(f"{folder}: expected a folder with data, found none (--source)")
        found[name] = Path(folder).absolute()
    return found


def _run(options: argparse.Namespace) -> None:
    from nnunet_meep.benchmark.running.machine import Machine
    from nnunet_meep.benchmark.running.runner import Runner
    from nnunet_meep.benchmark.running.status import failures
    from nnunet_meep.benchmark.running.watch import Watch

    state = _state(options)
    gpus = [gpu.strip() for gpu in options.gpus.split(",") if gpu.strip()]
    machine = Machine.of(options.device, options.jobs, gpus, options.per_gpu)
    watch = Watch(state)
    for note in state.plan.notes:
        watch.say(f"Note: {note}")
    _announce(state, machine.device, watch)
    with ended_like_ctrl_c():
        Runner(state, machine, watch.tell).run(watch.show)
    problems = [f"{key}: {reason}" for key, reason in state.problems.items()]
    problems += failures(state)
    if problems:
        raise InputError("not everything could be done:\n  " + "\n  ".join(problems))
    watch.say("Everything is done.")


def _announce(state: State, device: str, watch: Watch) -> None:
    n = len(state.trainings)
    watch.say(
        f"{n} training{'s' * (n != 1)} on {device}; everything goes into {state.folders.work}"
    )


def _status(options: argparse.Namespace) -> None:
    from nnunet_meep.benchmark.running.status import status_table

    print(status_table(_state(options)))


def _commands(options: argparse.Namespace) -> None:
    from nnunet_meep.benchmark.running.status import pending_commands

    start = ["meep-benchmark", "run", str(options.plan)]
    for flag in ("work", "device", "jobs", "gpus"):
        if value := getattr(options, flag):
            start += [f"--{flag}", str(value)]
    for source in options.source:
        start += ["--source", source]
    for line in pending_commands(_state(options), start):
        print(line)
