"""Error handling of all commands: one line on stderr, exit code 1, no traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nnunet_meep.errors import InputError
from nnunet_meep.garbage import collect_rarely


def run(action: Callable[[], None]) -> int:
    """Run ``action`` and return the exit code.

    0 if it returns; 1, after one line on stderr, if the input was bad or the system reported an
    error; 130 if it was interrupted; 141 if the reader of its output has closed the pipe.
    """
    collect_rarely()
    try:
        action()
        sys.stdout.flush()  # here, because at exit Python prints a traceback if the pipe is closed
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # not an error, for example in `meep-trainers | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # what a shell reports for SIGPIPE
    except OSError as error:  # disk full, no permission: the system's message and the file
        where = f"{error.filename}: " if error.filename else ""
        print(f"Error: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted", file=sys.stderr)
        return 130
    return 0


@contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP (its terminal is closed) end what runs inside as Ctrl-C does.

    For commands that start others, which have to be ended, too. Under nohup, SIGHUP is ignored and
    stays so.
    """
    signals = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    changed = [s for s in signals if signal.getsignal(s) is signal.SIG_DFL]
    for s in changed:
        signal.signal(s, signal.default_int_handler)
    try:
        yield
    finally:
        for s in changed:
            signal.signal(s, signal.SIG_DFL)
