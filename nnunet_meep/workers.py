"""Start other processes that do a part of the work."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def not_for_workers() -> Iterator[None]:
    """Keep Ctrl-C and SIGHUP, which a terminal sends to all, from processes that are started here.

    From their first moment: their parent ends them. This process gets such a signal afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
