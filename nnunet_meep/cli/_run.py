"""How all commands end: on an error or a signal with one line on stderr; what they print."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from types import FrameType
from typing import TextIO

from nnunet_meep.errors import InputError, described, printable
from nnunet_meep.garbage import collect_rarely

#: Seconds in which another SIGTERM or SIGHUP is taken for the same one: schedulers and ``timeout``
#: send it to a process and again to its group.
_THE_SAME = 5.0

#: The signals that end this process like Ctrl-C at present, for :func:`_block` and its like.
_handled: set[signal.Signals] = set()


def run(action: Callable[[], None]) -> int:
    """Run ``action`` and return the exit code.

    0 if it returns; 1, after one line on stderr, if the input was bad or the system reported an
    error; 130, 143 or 129 if it was ended by Ctrl-C, SIGTERM or SIGHUP; 141 if the reader of its
    output has closed the pipe.
    """
    _open_closed_streams()
    # Pictures are files: no window is opened, whatever the variable asks for or misspells.
    os.environ["MPLBACKEND"] = "agg"
    collect_rarely()
    try:
        with _ended_like_ctrl_c(), redirect_stdout(_Escaped(sys.stdout)):
            action()
    except (Exception, KeyboardInterrupt) as error:
        code = _code_after(_interrupt_behind(error) or error)
        if code is None:
            raise
        return code
    return flush()


def _interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt during which an error occurred: what is closed half-written may complain."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def _code_after(error: BaseException) -> int | None:
    """Say in one line what ended a command; its exit code, or None if the error is unforeseen."""
    if isinstance(error, InputError):
        print(f"Error: {error}", file=sys.stderr, flush=True)
        return 1
    if isinstance(error, BrokenPipeError):  # not an error, for example in `meep-trainers | head`
        return pipe_closed()
    if isinstance(error, OSError):  # disk full, no permission: the system's message and the file
        say(f"Error: {described(error)}")
        return 1
    if isinstance(error, _Ended):
        with suppress(OSError):  # the terminal is gone
            say(f"Ended by {error.signal.name}")
        return 128 + error.signal
    if isinstance(error, KeyboardInterrupt):
        say("Interrupted")
        return 130
    return None


def say(line: str) -> None:
    """Print one line on stderr, in which names may be anything that a file can be called."""
    print(printable(line), file=sys.stderr, flush=True)


def flush(code: int = 0) -> int:
    """Write out stdout; return ``code``, or 141 if the reader has closed the pipe.

    Here, because at exit Python would print a traceback then.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        return pipe_closed()
    return code


def pipe_closed() -> int:
    """The exit code if the reader of stdout has closed the pipe; what is left goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + 13  # what a shell reports for SIGPIPE


def _open_closed_streams() -> None:
    """Let a closed stdout or stderr (``>&-``) lead nowhere, and not into the next opened file."""
    if sys.stdout is None or sys.stderr is None:
        while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(opened)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


class _Escaped(io.TextIOBase):
    """Writes text to a stream, with what is not printable as escapes, but for line ends and tabs.

    Names in the text come from files. They could otherwise send commands to a terminal, or stop the
    program with letters that the terminal's encoding does not have.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding or "utf-8"  # none of a StringIO

    def write(self, text: str) -> int:
        shown = "".join(c if c in "\n\r\t" else printable(c) for c in text)
        shown = shown.encode(self.encoding, "backslashreplace").decode(self.encoding)
        self._stream.write(shown)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()


class _Ended(KeyboardInterrupt):
    """The process was sent a signal that is to end it as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP (its terminal is closed) end what runs inside as Ctrl-C does.

    So processes that it has started are ended, and temporary files removed. Under nohup, SIGHUP is
    ignored and stays so.

    Python drops an exception that is raised in a destructor, where a signal may arrive as anywhere
    else: then the signal is sent again.
    """
    last = float("-inf")
    unraisable = sys.unraisablehook

    def end(number: int, _: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last > _THE_SAME:
            last = time.monotonic()
            raise _Ended(number)

    def send_again(dropped: sys.UnraisableHookArgs) -> None:
        nonlocal last
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            unraisable(dropped)
            return
        last = float("-inf")
        ended = dropped.exc_value
        number = ended.signal if isinstance(ended, _Ended) else signal.SIGINT
        # A moment later: what is raised here would be dropped as well.
        threading.Timer(0.01, _send_to_main_thread, [number]).start()

    signals = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    is_main = threading.current_thread() is threading.main_thread()  # no other may set them
    changed = [s for s in signals if is_main and signal.getsignal(s) is signal.SIG_DFL]
    for s in changed:
        signal.signal(s, end)
    _handled.update(changed)
    if is_main:
        sys.unraisablehook = send_again
    try:
        yield
    finally:
        if is_main:
            sys.unraisablehook = unraisable
        _handled.difference_update(changed)
        for s in changed:
            signal.signal(s, signal.SIG_DFL)


def _send_to_main_thread(number: int) -> None:
    """Send this process a signal; where the system can, so that it ends a wait of that thread."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)


def _block() -> None:
    """Before a fork: hold the handled signals back, until the child handles them otherwise.

    Libraries fork processes and end them by SIGTERM (nnU-Net does, for its list of images). Those
    shall simply end: Python forgets a signal that comes before a child has begun, and between two
    of its steps, so that its parent would wait for it forever.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _handled)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _handled)


def _end_at_once() -> None:
    """In the child."""
    for s in _handled:
        signal.signal(s, signal.SIG_DFL)
    _unblock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_end_at_once)
