"""Records and claims: only one runner works on a step, also if runners are killed."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import Queue
from types import SimpleNamespace

import psutil
import pytest
from small_steps import claim_all, of_another_machine

from nnunet_meep.benchmark.running import keep_alive
from nnunet_meep.benchmark.running import records as module
from nnunet_meep.benchmark.running.records import DONE, STALE, Record, Records

KEY = "data/trainer/fold_0/evaluate/test+temperature"


@pytest.fixture
def records(tmp_path) -> Records:
    return Records(tmp_path / "steps")


def test_one_of_several_processes_gets_each_step(tmp_path) -> None:
    n, context = 3, multiprocessing.get_context("spawn")
    keys = [f"data/step_{i}" for i in range(30)]
    with context.Manager() as manager, ProcessPoolExecutor(n, mp_context=context) as pool:
        barrier = manager.Barrier(n)
        found = [pool.submit(claim_all, tmp_path, keys, barrier) for _ in range(n)]
        got = sum((f.result(timeout=300) for f in found), Counter())
    assert got == dict.fromkeys(keys, 1)


def test_of_two_that_saw_no_claim_one_gets_the_step(records, monkeypatch) -> None:
    other = Records(records._folder)
    monkeypatch.setattr(other, "_last", lambda key: None)  # it looked before the first one claimed
    first = records.claim(KEY)
    assert other.claim(KEY) is None
    assert records.touch(first)


WAIT = "import signal\nprint('ready', flush=True)\nwhile True: signal.pause()"


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_what_a_killed_runner_left_running_is_ended(tmp_path, records) -> None:
    # A command and its worker, which outlives it.
    parent = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {WAIT!r}])\n{WAIT}"
    work = subprocess.Popen(
        [sys.executable, "-c", parent], start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    assert work.stdout is not None
    assert [work.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    workers = psutil.Process(work.pid).children()
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from pathlib import Path; from small_steps import claim_and_wait\n"
        f"claim_and_wait(Path({str(tmp_path / 'steps')!r}), {KEY!r}, {work.pid})"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert runner.stdout is not None
    assert runner.stdout.readline() == "claimed\n"
    held = records.holder(KEY)
    assert held is not None
    assert (held.process, held.group) == (runner.pid, work.pid)
    assert records.claim(KEY) is None
    runner.kill()
    runner.communicate()
    assert records.holder(KEY) is None
    claim = records.claim(KEY)
    assert claim is not None
    assert claim.path.name.endswith(".claim-2")
    assert work.wait(timeout=300) == -9
    assert psutil.wait_procs(workers, timeout=300)[1] == []
    work.stdout.close()
    records.release(KEY, claim)
    assert list(claim.path.parent.iterdir()) == []


def test_a_runner_on_another_machine_is_waited_for_until_its_claim_is_stale(
    records, monkeypatch
) -> None:
    first = records.claim(KEY)
    of_another_machine(first, age=STALE - 60)
    # The clock of this machine does not matter, but that of the file system.
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert records.holder(KEY).machine == "far away"
    assert records.claim(KEY) is None
    monkeypatch.undo()
    of_another_machine(first, age=-STALE - 60)  # its clock was wrong, and is right again
    assert records.holder(KEY) is None
    of_another_machine(first, age=STALE + 60)
    assert records.holder(KEY) is None
    second = records.claim(KEY)
    assert second is not None
    # The first one wakes up.
    assert not records.touch(first)
    assert records.touch(second)
    records.release(KEY, second)
    assert not records.touch(first)
    assert not records.touch(second)


def test_a_runner_that_wakes_up_does_not_take_the_claim_of_the_next_one_for_its_own(
    records,
) -> None:
    first = records.claim(KEY)
    first.path.unlink()  # taken over and released
    next_one = records.claim(KEY)
    assert next_one.path == first.path
    of_another_machine(next_one, age=0)
    assert not records.touch(first)
    records.release(KEY, first)
    assert records.holder(KEY).machine == "far away"


@pytest.mark.parametrize("is_stale", [False, True])
def test_a_look_that_others_have_overtaken_claims_nothing(records, monkeypatch, is_stale) -> None:
    """Between the look and the claim, others claim the step, and release it, and claim it again."""
    if is_stale:
        first = records.claim(KEY)
        of_another_machine(first, age=STALE + 60)
    start_of, held = module.start_of, []

    def meanwhile(process: int) -> float:
        monkeypatch.setattr(module, "start_of", start_of)
        if is_stale:  # it is taken over and released, and then claimed as the first
            first.path.unlink()
            held.append(records.claim(KEY))
        else:  # it is claimed as the second, after a first one that is released
            path = records.claim(KEY).path
            held.append(replace(records.holder(KEY), path=path.rename(f"{str(path)[:-1]}2")))
        return start_of(process)

    monkeypatch.setattr(module, "start_of", meanwhile)
    assert Records(records._folder).claim(KEY) is None
    assert records.holder(KEY) == held[0]
    assert records.touch(held[0])


def test_a_claim_without_content(records) -> None:
    first = records.claim(KEY)
    first.path.write_text("")
    assert records.holder(KEY) is not None  # its runner may be writing it
    assert records.claim(KEY) is None
    os.utime(first.path, (1, 1))
    assert records.claim(KEY).path.name.endswith(".claim-2")


def test_the_identity_of_a_process_is_not_only_its_number(records, monkeypatch) -> None:
    claim = records.claim(KEY)
    assert records.holder(KEY) == claim
    content = module._content(replace(claim, process_started=claim.process_started - 60))
    claim.path.write_text(content)
    assert records.holder(KEY) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="starts are fixed elsewhere")
@pytest.mark.parametrize("seconds", [-7200, 5, 7200])
def test_a_runner_is_alive_although_the_clock_was_set(records, monkeypatch, seconds) -> None:
    claim = records.claim(KEY)
    boot, start = psutil.boot_time, psutil.Process.create_time
    monkeypatch.setattr(psutil, "boot_time", lambda: boot() + seconds)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: start(process) + seconds)
    assert records.holder(KEY) == claim


def test_claims_are_touched_beside_the_work_of_the_runner(monkeypatch) -> None:
    monkeypatch.setattr(keep_alive, "_TOUCH", 0.001)
    touched: Queue[str] = Queue()
    records = SimpleNamespace(touch=touched.put)
    claims = ["a"]
    with keep_alive.kept_alive(records, claims):
        assert touched.get(timeout=300) == "a"
        claims[:] = ["b"]
        assert "b" in (touched.get(timeout=300) for _ in range(10**6))


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_a_group_whose_number_is_used_again_is_left_alone() -> None:
    echo = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", echo], start_new_session=True, **pipes) as work:
        started = module.start_of(work.pid)
        module.end_group(work.pid, started - 60)
        work.stdin.write("alive\n")
        work.stdin.flush()
        assert work.stdout.readline() == "alive\n"
        module.end_group(work.pid, started)
        assert work.wait(timeout=300) == -9


def test_a_released_step_can_be_claimed_again(records) -> None:
    for _ in range(2):
        claim = records.claim(KEY)
        assert records.claim(KEY) is None
        records.release(KEY, claim)
        assert records.holder(KEY) is None


def test_records(records) -> None:
    record = Record(DONE, "x", ["a", "b"], {"need": "y"}, {"{work}/out": 3}, seconds=2.5)
    assert records.read(KEY) is None
    records.write(KEY, record)
    records.claim(KEY)
    assert records.read(KEY) == record
    (path,) = Path(records._folder).rglob("*.json")
    other_kind = path.read_text().replace('"inputs": {}', '"inputs": []')
    for damaged in (
        "",
        "[]",
        "null",
        "{}",
        '{"state": "done"',
        '{"state": "done"}',
        "\0",
        other_kind,
    ):
        path.write_text(damaged)
        assert records.read(KEY) is None
