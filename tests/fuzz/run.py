"""Feeds damaged and odd input to the package; every input is made from its number alone.

    python tests/fuzz/run.py 0 10000          # the inputs 0 to 9999
    python tests/fuzz/run.py 4711             # one of them, kept in ./fuzz-4711
    python tests/fuzz/run.py 0 --minutes 60   # as many as there is time for

Each has to be refused by an ``InputError`` of one line that names a file of it, or to give what a
plain evaluation gives. Anything else is printed, as number, kind and reason, and ends in exit 1.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from unittest.mock import patch

from folders import memory
from targets import TARGETS

from nnunet_meep.errors import InputError

_SECONDS = 60  # for one input, on a busy machine
_MEMORY = 2 << 30  # more than at the start


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=int, help="number of the first input")
    parser.add_argument("stop", type=int, nargs="?", help="the number after the last one")
    parser.add_argument("--minutes", type=float, help="go on for so long")
    given = parser.parse_args(arguments)
    if given.stop is None and given.minutes is None:
        failure = check(Random(given.first), Path(f"fuzz-{given.first}"))
        print(failure or "passed")
        return failure is not None
    end = time.monotonic() + 60 * given.minutes if given.minutes else float("inf")
    verdicts: Counter[str] = Counter()
    number = given.first
    while time.monotonic() < end and (given.stop is None or number < given.stop):
        print(number, file=sys.stderr)  # for who finds this process dead
        with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory()) as folder:
            failure = check(Random(number), Path(folder), verdicts)
        if failure:
            verdicts["failed"] += 1
            print(number, failure, flush=True)
        number += 1
    print(", ".join(f"{verdict}: {n}" for verdict, n in sorted(verdicts.items())))
    return 1 if verdicts["failed"] else 0


def check(draw: Random, folder: Path, verdicts: Counter[str] | None = None) -> str | None:
    """What is wrong with the answer to an input; None: nothing.

    Args:
        draw: makes the input.
        folder: for its files.
        verdicts: counts whether inputs were refused or accepted.
    """
    target = draw.choice(TARGETS)
    verdict = "accepted"
    try:
        with _limits(), warnings.catch_warnings():
            warnings.simplefilter("error")
            target(draw, folder)
    except InputError as error:
        verdict = "refused"
        line = str(error)
        if len(line.splitlines()) != 1 or str(folder) not in line or len(line) > 1000:
            return f"{target.__name__}: refused by {line[:500]!r}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        last = traceback.format_exc().splitlines()[-7:]
        return f"{target.__name__}: " + " | ".join(line.strip()[:300] for line in last)
    if verdicts is not None:
        verdicts[f"{target.__name__} {verdict}"] += 1
    return None


class _limits:
    """Of time and memory."""

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, self._late)
        signal.alarm(_SECONDS)

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)

    @staticmethod
    def _late(*_: object) -> None:
        raise TimeoutError(f"no answer after {_SECONDS} s")


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, resource.RLIM_INFINITY))


def without_slow_metrics() -> AbstractContextManager[object]:
    """Leave out a metric that depends on the sums that others depend on, too."""
    return patch("nnunet_meep.evaluation.metrics.scores.smooth_ece", lambda *_, **__: 0.0)


if __name__ == "__main__":
    with without_slow_metrics():
        _limit_memory()
        sys.exit(main())
