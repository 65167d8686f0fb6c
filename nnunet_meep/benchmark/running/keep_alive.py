"""Show other runners that this one is alive, whatever it is busy with."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from nnunet_meep.benchmark.running.records import Claim, Records

#: Seconds between two touches of a claim; far less than :data:`.STALE`.
_TOUCH = 20.0


@contextmanager
def kept_alive(records: Records, claims: Sequence[Claim]) -> Iterator[None]:
    """Touch claims regularly, in a thread of its own, until the block ends.

    The runner itself may be busy for minutes: it checks the predictions that it goes on with, or
    copies files.

    Args:
        records: the folder of the claims.
        claims: those that are held at the time; may change.
    """
    is_over = threading.Event()

    def touch() -> None:
        while not is_over.wait(_TOUCH):
            for claim in tuple(claims):
                records.touch(claim)

    # A daemon: a network drive that hangs does not keep the runner from ending.
    threading.Thread(target=touch, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
