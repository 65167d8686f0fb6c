"""Estimate how long the trainings of a plan take, from a few timed iterations."""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import replace

from nnunet_meep.atomic import temporary_folder
from nnunet_meep.benchmark.plans.plan import Data
from nnunet_meep.benchmark.plans.trainer_names import n_iterations
from nnunet_meep.benchmark.run import Options, refuse_problems
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.benchmark.running.machine import Machine
from nnunet_meep.benchmark.running.process import Process, end
from nnunet_meep.benchmark.running.progress import last_error, training_progress
from nnunet_meep.benchmark.running.watch import Watch, clock, run_steps
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.notes import counted

#: The second of two epochs is timed: the first one takes longer. nnU-Net validates on a fifth of
#: the iterations, as in a whole training.
_EPOCHS, _ITERATIONS = 2, 25
_TIMED = f"nnUNetTrainerDiceCE_{_EPOCHS}epochs_{_ITERATIONS}iters"


def tell_time(options: Options) -> None:
    """Prepare the data sets of a plan, time some iterations, and print how long it will take.

    The terms of the losses take little time: a data set is timed with nnU-Net's default loss. What
    is trained for it goes into a temporary folder.

    Raises:
        InputError: a data set could not be prepared or trained.
    """
    state = options.state()
    refuse_problems(state)
    machine = options.machine()
    plan, watch, seconds = state.plan, Watch(state), []
    watch.begin(
        f"Prepares the data as run does, and then times {_EPOCHS} epochs of {_ITERATIONS} "
        f"iterations on each data set ({machine.device})."
    )
    for data in plan.data.values():
        preparing = options.state([f"{data.name}/splits"])
        runner = run_steps(preparing, machine, Watch(preparing))
        if problems := [*preparing.problems.values(), *runner.failed.values()]:
            raise InputError(problems[0])
        of_one = _seconds_per_iteration(data, state.folders, machine, watch)
        of_data = [t for t in plan.trainings() if t.data == data.name]
        n = sum(n_iterations(training.trainer) for training in of_data)
        seconds.append(n * of_one)
        watch.say(
            f"{data.name}: {of_one:.2g} s per iteration, {in_words(seconds[-1])} for "
            f"{counted(len(of_data), 'training')}"
        )
    print(
        f"About {in_words(sum(seconds))} on this machine ({machine.device}), one training after "
        f"the other, without validation and prediction; --jobs, or --gpus and --per-gpu, let "
        f"several run side by side."
    )


def in_words(seconds: float) -> str:
    """``40 minutes``, ``5 hours`` or ``131 days``."""
    for unit, length in (("day", 86400), ("hour", 3600)):
        if seconds >= 2 * length:
            return counted(round(seconds / length), unit)
    return counted(max(1, round(seconds / 60)), "minute")


def _seconds_per_iteration(data: Data, folders: Folders, machine: Machine, watch: Watch) -> float:
    """Of one training beside as many others as the machine has slots for."""
    plans = data.network.plans if data.network else data.plans
    command = ["nnUNetv2_train", data.dataset, data.configuration, str(data.folds[0])]
    command += ["-tr", _TIMED, "-p", plans, "-device", machine.device]
    progress, began = training_progress(_EPOCHS), time.monotonic()
    watch.say(f"{data.name}: times\n      $ {shlex.join(command)}")
    with temporary_folder() as temporary:
        elsewhere = replace(folders, results=temporary)
        environment = machine.environment(machine.slots[0], elsewhere.environment(), trains=True)
        log = temporary / "train.log"
        process = Process(command, log, environment, machine.threads)
        try:
            while len(times := re.findall(r"Epoch time: ([\d.]+) s", process.output())) < _EPOCHS:
                if process.returncode() is not None:
                    raise InputError(f"{command[0]} failed: {last_error(process.output())}")
                if watch.is_due():
                    at = [(data.name, progress(process.output()))]
                    watch.keep(clock(time.monotonic() - began), at)
                time.sleep(0.5)
        finally:
            watch.stop()
            end([process])
    return float(times[1]) / _ITERATIONS
