"""Estimate how long the trainings of a plan take, from a few timed iterations."""

from __future__ import annotations

import re
import time
from dataclasses import replace

from nnunet_meep.atomic import temporary_folder
from nnunet_meep.benchmark.plans.plan import Data, Plan
from nnunet_meep.benchmark.plans.trainer_names import n_iterations
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.benchmark.running.machine import Machine
from nnunet_meep.benchmark.running.process import Process, end
from nnunet_meep.benchmark.running.progress import last_error
from nnunet_meep.benchmark.running.runner import Runner
from nnunet_meep.benchmark.running.state import State
from nnunet_meep.benchmark.running.watch import Watch
from nnunet_meep.errors import InputError

#: The second of two epochs is timed: the first one takes longer. nnU-Net validates on a fifth of
#: the iterations, as in a whole training.
_ITERATIONS = 25
_TIMED = f"nnUNetTrainerDiceCE_2epochs_{_ITERATIONS}iters"


def seconds_of_trainings(plan: Plan, folders: Folders, machine: Machine) -> dict[str, float]:
    """Prepare each data set, train it for a few iterations, and estimate all of its trainings.

    Returns:
        By data set, the seconds that its trainings take one after the other, without validation
        and prediction.

    Raises:
        InputError: a data set could not be prepared or trained.
    """
    for name in plan.data:
        state = State(plan, folders, only=[f"{name}/splits"])
        state.update()
        watch = Watch(state)
        runner = Runner(state, machine, watch.tell)
        runner.run(watch.show)
        if problems := [*state.problems.values(), *runner.failed.values()]:
            raise InputError(problems[0])
    found = {}
    for data in plan.data.values():
        n = sum(n_iterations(t.trainer) for t in plan.trainings() if t.data == data.name)
        found[data.name] = n * _seconds_per_iteration(data, folders, machine)
    return found


def _seconds_per_iteration(data: Data, folders: Folders, machine: Machine) -> float:
    """Of one training beside as many others as the machine has slots for."""
    plans = data.network.plans if data.network else data.plans
    command = ["nnUNetv2_train", data.dataset, data.configuration, str(data.folds[0])]
    command += ["-tr", _TIMED, "-p", plans, "-device", machine.device]
    with temporary_folder() as temporary:
        elsewhere = replace(folders, results=temporary)
        environment = machine.environment(machine.slots[0], elsewhere.environment(), trains=True)
        log = temporary / "train.log"
        process = Process(command, log, environment, machine.threads)
        try:
            while len(times := re.findall(r"Epoch time: ([\d.]+) s", process.output())) < 2:
                if process.returncode() is not None:
                    raise InputError(f"{command[0]} failed: {last_error(process.output())}")
                time.sleep(0.5)
        finally:
            end([process])
    return float(times[1]) / _ITERATIONS
