"""Steps: in which order they run, which run again, and that several runners share them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from small_steps import (
    Given,
    action,
    command,
    finished,
    in_turn,
    output_of,
    ran,
    run,
    run_beside_others,
)

from nnunet_meep.benchmark.running import runner
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.benchmark.running.machine import Machine, Slot
from nnunet_meep.benchmark.running.process import Process
from nnunet_meep.benchmark.running.records import BEGUN, DONE, FAILED, Record, Records
from nnunet_meep.benchmark.running.step import Step
from nnunet_meep.errors import InputError

pytestmark = pytest.mark.usefixtures("small_step")


def again(tmp_path: Path, steps: list[Step], goals: list[str] | None = None) -> list[str]:
    """Run steps with a new runner; those that ran."""
    (tmp_path / "ran.txt").unlink(missing_ok=True)
    run(Given(tmp_path, steps, goals or ()))
    return ran(tmp_path)


def test_steps_run_after_what_they_need_once(tmp_path) -> None:
    steps = [action("d", "b", "c"), action("c", "a"), command("b", "a"), action("a")]
    made = run(Given(tmp_path, steps), n_slots=2)
    order = ran(tmp_path)
    assert sorted(order) == ["a", "b", "c", "d"]
    assert (order[0], order[-1]) == ("a", "d")
    assert made.failed == {}
    assert [key for event, key, _ in made.told if event == "done"][-1] == "d"
    (line,) = [text for event, key, text in made.told if (event, key) == ("start", "b")]
    assert line.startswith(f"$ small-step b {tmp_path} no ")
    assert again(tmp_path, steps) == []


def test_a_command_of_this_package_with_its_log_and_cost(tmp_path) -> None:
    state = Given(tmp_path, [Step("data/x", ("meep-trainers", "--help"), ())])
    assert run(state).failed == {}
    assert "usage: meep-trainers" in (tmp_path / "logs" / "data" / "x.log").read_text()
    record = state.records.read("data/x")
    assert record.state == DONE
    assert record.usage["device"] == "CPU"
    assert record.usage["memory_mb"] > 1
    assert not (tmp_path / "logs" / "data" / "x.usage").exists()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (command("b", "a", wait="fail"), "ValueError: on purpose (exit code 1)"),
        (command("b", "a", wait="die"), "it said nothing (killed, perhaps because memory ran out)"),
        (
            replace(command("b", "a"), command=("meep-train",)),
            "meep-train: expected a command of this environment, found none",
        ),
        (replace(action("b", "a"), action=None), "it ended without {work}/out/b"),
    ],
)
def test_what_failed_stops_only_what_needs_it(tmp_path, wrong, reason) -> None:
    steps = [action("a"), wrong, action("c", "b"), action("d", "c"), action("e", "a")]
    state = Given(tmp_path, steps)
    made = run(state)
    reason = reason.replace("{work}", str(tmp_path))
    assert made.failed == {"b": reason}
    assert {*ran(tmp_path)} - {"b"} == {"a", "e"}
    record = state.records.read("b")
    assert (record.state, record.reason) == (FAILED, reason)
    assert ("failed", "b", reason) in made.told
    assert [step.key for step in state.pending()] == ["b", "c", "d"]
    # The next run tries it again, and does not repeat what is done.
    repaired = [action("b", "a") if step.key == "b" else step for step in steps]
    assert again(tmp_path, repaired) == ["b", "c", "d"]


def refuse() -> list[str]:
    raise InputError("give --source")


def test_an_input_error_before_the_command_is_the_reason(tmp_path) -> None:
    state = Given(tmp_path, [replace(command("a"), complete=lambda _: refuse())])
    assert run(state).failed == {"a": "give --source"}
    assert not (tmp_path / "logs").exists()


def test_what_vanished_or_changed_runs_again_only_if_it_is_wanted(tmp_path) -> None:
    steps = [action("a"), action("b", "a"), action("c", "b")]
    out = tmp_path / "out"
    assert again(tmp_path, steps, ["c"]) == ["a", "b", "c"]
    (out / "a").unlink()
    (out / "b").write_text("something else")
    assert again(tmp_path, steps, ["c"]) == []
    (out / "c").write_text("something else")
    assert again(tmp_path, steps, ["c"]) == ["a", "b", "c"]
    (out / "a").unlink()
    (out / "c").unlink()
    assert again(tmp_path, steps, ["c"]) == ["c"]  # b is there
    assert again(tmp_path, steps, ["a", "c"]) == ["a", "b", "c"]  # from another a
    (out / "a").unlink()
    (out / "c").unlink()
    assert again(tmp_path, steps, ["c", "a"]) == ["a", "b", "c"]


def test_a_changed_command_runs_again_with_all_that_came_of_it(tmp_path) -> None:
    def steps(says: str, detail: str = "") -> list[Step]:
        first = action("a", says=says, detail=detail)
        return [first, action("x"), action("b", "a"), action("c", "b", "x")]

    assert again(tmp_path, steps("do"), ["c"]) == ["a", "x", "b", "c"]
    assert again(tmp_path, steps("do anew"), ["c"]) == ["a", "b", "c"]
    assert again(tmp_path, steps("do anew", "; then stop"), ["c"]) == ["a", "b", "c"]
    assert again(tmp_path, steps("do anew", "; then stop"), ["c"]) == []
    state = Given(tmp_path, steps("do"), ["c"])
    assert [step.key for step in state.pending()] == ["a", "b", "c"]


def test_what_is_found_counts_as_done_if_what_it_needs_is(tmp_path) -> None:
    def steps(says: str = "do") -> list[Step]:
        found = action("b", "a", found=True)
        return [action("a", says=says), found, action("c", "b", found=True), action("d", "c")]

    (tmp_path / "out").mkdir()
    for key in "bc":
        (tmp_path / "out" / key).write_text("of the user")
    state = Given(tmp_path, steps())
    assert [step.key for step in state.pending()] == ["a", "b", "c", "d"]
    assert again(tmp_path, steps()) == ["a", "d"]
    assert (tmp_path / "out" / "b").read_text() == "of the user"
    # The user may make it anew, also with other options, but not without what it needs.
    (tmp_path / "out" / "c").write_text("of the user, another time")
    changed = [replace(s, command=("other",)) if s.key == "c" else s for s in steps()]
    assert again(tmp_path, changed) == []
    assert again(tmp_path, steps("do anew")) == ["a", "b", "c", "d"]


def test_files_of_others_stay(tmp_path) -> None:
    step = action("a", is_same=lambda _: False, instead="give another name")
    path = tmp_path / "out" / "a"
    path.parent.mkdir()
    path.write_text("of the user")
    for _ in range(2):  # nor does a second run take it for its own
        made = run(Given(tmp_path, [step]))
        assert "did not make it" in made.failed["a"]
        assert str(path) in made.failed["a"]
        assert made.failed["a"].endswith("give another name")
        assert path.read_text() == "of the user"
    path.unlink()
    assert again(tmp_path, [step]) == ["a"]
    changed = replace(step, command=("do it", "differently"))
    assert again(tmp_path, [changed]) == ["a"]  # its own
    other = replace(step, outputs=("{work}/out/b",))
    (tmp_path / "out" / "b").write_text("of the user")
    assert again(tmp_path, [other]) == []
    assert (tmp_path / "out" / "b").read_text() == "of the user"


def test_a_file_of_another_benchmark_counts_as_long_as_it_is_the_same(tmp_path) -> None:
    """And neither changes what the other one made."""
    path = tmp_path / "shared"

    def failed(work: Path, says: str) -> dict[str, str]:
        def is_same(_: Folders) -> bool:
            return path.is_file() and path.read_text() == f"{says} a"

        step = action("a", says=says, is_same=is_same, outputs=(str(path),))
        work.mkdir(exist_ok=True)
        return run(Given(work, [step])).failed

    assert failed(tmp_path, "do") == failed(tmp_path / "other", "do") == {}
    assert (ran(tmp_path), ran(tmp_path / "other")) == (["a"], [])
    assert list(failed(tmp_path / "other", "do anew")) == ["a"]
    assert failed(tmp_path, "do anew") == {}  # its own
    assert list(failed(tmp_path / "other", "do")) == ["a"]
    assert failed(tmp_path / "other", "do anew") == {}
    assert ran(tmp_path / "other") == []


def test_two_benchmarks_work_in_one_place_one_after_the_other(tmp_path, monkeypatch) -> None:
    """As two plans that train one trainer on one data set, with work folders of their own."""
    place = tmp_path / "results" / "fold_0"
    others = Records(place.parent)
    claim = others.claim(".fold_0")
    state = Given(tmp_path, [command("a", place=str(place)), command("b", "a", place=str(place))])
    told = []

    def tell(event: str, step: Step, text: str) -> None:
        told.append((event, step.key))
        if event == "waits":
            assert str(place) in text
            others.release(".fold_0", claim)
        if event == "start":
            assert others.holder(".fold_0") is not None
            assert others.claim(".fold_0") is None

    monkeypatch.setattr(runner, "_LOOK_AROUND", 0.05)
    runner.Runner(state, Machine("cpu", (Slot(True, True),), 1), tell).run()
    steps = [(event, key) for key in "ab" for event in ("start", "done")]
    assert told == [("waits", "a"), *steps]
    assert list(place.parent.iterdir()) == []


def begun(state: Given, step: Step, changes: dict[str, object]) -> None:
    """As if a runner had been killed while it worked on a step."""
    record = Record(BEGUN, "x", list(step.command), state.identities(step), state.sizes(step))
    state.records.write(step.key, replace(record, **changes))


@pytest.mark.parametrize("how", ["begun", "failed", "lost some", "other words", "other needs"])
@pytest.mark.parametrize("resumes", [True, False])
def test_only_the_same_with_the_same_goes_on(tmp_path, how, resumes) -> None:
    """And all else begins without what is left of the attempt before."""
    step = command("b", "a", clear=("{work}/left",), outputs=("{work}/out/b", "{work}/out/c"))
    if resumes:
        step = replace(step, resume=lambda folders, words: [*words, str(folders.work / "--c")])
    state = Given(tmp_path, [action("a"), step])
    run(state)
    (tmp_path / "out" / "c").unlink()
    for name in ("left", "--c"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    (tmp_path / "left").mkdir()
    state = Given(tmp_path, [action("a"), step])
    changes = {
        "begun": {},
        "failed": {"state": FAILED},
        "lost some": None,
        "other words": {"command": ["small-step"]},
        "other needs": {"needs": {"a": "y"}},
    }[how]
    if changes is not None:
        begun(state, step, changes)
    made = run(state)
    assert made.failed == {}
    goes_on = resumes and not how.startswith("other")
    (line,) = [text for event, key, text in made.told if (event, key) == ("start", "b")]
    assert line.endswith("--c") == goes_on
    assert (tmp_path / "left").exists() == goes_on


@pytest.mark.parametrize("adopts", [True, False])
def test_a_changed_file_is_gone_on_with_only_if_it_is_adopted(tmp_path, adopts) -> None:
    step = command("a", resume=lambda _, words: [*words, str(tmp_path / "x")], adopts=adopts)
    run(Given(tmp_path, [step]))
    (tmp_path / "out" / "a").write_text("of somebody else")
    state = Given(tmp_path, [step])
    assert not state.is_done(step)
    assert state.can_resume(step, state.records.read("a")) == adopts


@pytest.mark.parametrize("adopts", [True, False])
def test_what_was_begun_without_a_record(tmp_path, adopts) -> None:
    left = tmp_path / "left"
    left.mkdir()
    step = command("a", clear=("{work}/left",), resume=lambda _, words: [*words, str(left / "x")])
    made = run(Given(tmp_path, [replace(step, adopts=adopts)]))
    assert made.failed == {}
    assert left.exists() == adopts


def test_a_finished_training_is_kept_when_it_is_made_anew(tmp_path) -> None:
    fold = tmp_path / "fold_0"
    fold.mkdir()
    (fold / "checkpoint_final.pth").write_text("of days")
    run(Given(tmp_path, [command("a", clear=("{work}/fold_0",))]))
    assert not fold.exists()
    (kept,) = tmp_path.glob("earlier_fold_0_*")
    assert (kept / "checkpoint_final.pth").read_text() == "of days"


def test_interrupted(tmp_path) -> None:
    """The command is ended, and the step is free for others."""
    state = Given(tmp_path, [command("a", wait="forever")])
    running = []

    def interrupt(made: runner.Runner) -> None:
        if ran(tmp_path):
            running.extend(made.running)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(state, show=interrupt)
    (of_a,) = running
    assert of_a.process.returncode() < 0
    assert state.records.read("a").state == BEGUN
    assert state.records.holder("a") is None


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_second_interruption_ends_all_at_once(tmp_path, monkeypatch) -> None:
    """Also workers that ignore the request to end; a step that could not begin is free, too."""

    def refuse(*_: object) -> None:
        raise KeyboardInterrupt

    steps = [command("a", wait="stubborn"), command("b", wait="stubborn"), action("c", "a")]
    state = Given(tmp_path, steps)
    monkeypatch.setattr(Process, "wait", refuse)
    running = []

    def interrupt(made: runner.Runner) -> None:
        if len(ran(tmp_path)) == 2:
            running.extend(made.running)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(state, n_slots=2, show=interrupt)
    for of_step in running:
        assert of_step.process._process.wait(timeout=300) == -signal.SIGKILL
    assert len(running) == 2
    assert not [p for p in (tmp_path / "steps").rglob("*") if "claim" in p.name]


@pytest.mark.parametrize(
    ("error", "failed"), [(FileNotFoundError("gone"), {"a": "gone"}), (KeyboardInterrupt(), None)]
)
def test_a_step_that_cannot_begin_is_free_again(tmp_path, error, failed) -> None:
    def resume(*_: object) -> list[str]:
        raise error

    step = command("a", resume=resume, adopts=True)
    state = Given(tmp_path, [step])
    if failed is None:
        with pytest.raises(KeyboardInterrupt):
            run(state)
    else:
        assert run(state).failed == failed
    assert state.records.holder("a") is None


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("wait", ["forever", "no"])
def test_a_runner_whose_step_was_taken_over_notices(tmp_path, released, wait) -> None:
    """Also if its command is done, or the other runner is."""
    step = command("a", wait=wait)
    state = Given(tmp_path, [step])

    def take_over(made: runner.Runner) -> None:
        if not made.running or not ran(tmp_path):
            return
        (of_a,) = made.running
        while wait == "no" and of_a.process.returncode() is None:
            psutil.wait_procs([psutil.Process(of_a.process.group)], timeout=1)
        following = of_a.claim.path.with_name("a.claim-2")
        of_a.claim.path.rename(following)
        finished(state, step)
        if released:
            following.unlink()

    made = run(state, show=take_over)
    assert [event for event, _, _ in made.told] == ["start", "lost"]
    assert state.records.read("a").identity == "another"


@pytest.mark.parametrize("how", [DONE, FAILED])
def test_what_another_runner_ends_a_moment_before_this_one_would(tmp_path, how) -> None:
    first, second = action("a"), action("b", "a")
    state = Given(tmp_path, [first, second])
    claim = state.records.claim("a")
    look = state.records.holder

    def holder(key: str) -> object:
        state.records.holder = look
        finished(state, first, how)
        state.records.release("a", claim)
        return None

    claim_step = state.records.claim

    def claim_later(key: str) -> object:
        state.records.claim = claim_step
        state.records.holder = holder
        return None

    state.records.claim = claim_later
    made = run(state)
    assert ran(tmp_path) == (["b"] if how == DONE else [])
    assert list(made.failed) == ([] if how == DONE else ["a"])


def test_two_runners_do_everything_exactly_once(tmp_path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    runners = [context.Process(target=run_beside_others, args=(tmp_path, barrier)) for _ in "ab"]
    for process in runners:
        process.start()
    for process in runners:
        process.join(timeout=300)
        assert process.exitcode == 0
    steps = in_turn(tmp_path)
    assert Counter(ran(tmp_path)) == {step.key: 1 for step in steps}
    state = Given(tmp_path, steps)
    assert state.pending() == []
    assert not [p for p in (tmp_path / "steps").rglob("*") if "claim" in p.name]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="commands outlive their runner")
def test_killed_again_and_again(tmp_path) -> None:
    """Each step is begun at most once more than it was interrupted, and all are done at the end."""
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from pathlib import Path; from small_steps import run_beside_others\n"
        f"run_beside_others(Path({str(tmp_path)!r}), None)"
    )
    n_lines = iter([1, 4, 9, 3])
    interrupted: Counter[str] = Counter()
    while True:
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        begun, wanted = set(), next(n_lines, 1000)
        for i, line in enumerate(process.stdout, 1):
            event, key = line.split()
            (begun.add if event == "start" else begun.discard)(key)
            if i >= wanted:
                process.kill()
        interrupted.update(begun)
        process.stdout.close()
        if process.wait(timeout=300) == 0:
            break
    steps = in_turn(tmp_path)
    assert Given(tmp_path, steps).pending() == []
    counts = Counter(ran(tmp_path))
    assert set(counts) == {step.key for step in steps}
    assert all(n <= 1 + interrupted[key] for key, n in counts.items())
    for step in steps:
        assert (tmp_path / output_of(step.key).removeprefix("{work}/")).is_file()
