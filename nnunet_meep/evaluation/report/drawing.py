"""Draw the pictures of an evaluation, here or in a process that was started for it in time."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nnunet_meep.garbage import collect_rarely
from nnunet_meep.workers import not_for_workers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TO_DRAW = ("matplotlib.figure", "matplotlib.backends.backend_svg", f"{__package__}.figures")


class Picture(NamedTuple):
    """A figure to draw, and the files that it becomes.

    Attributes:
        draw: makes the figure.
        png, svg: paths.
    """

    draw: Callable[[], Figure]
    png: Path
    svg: Path


def save_pictures(pictures: Sequence[Picture]) -> None:
    """Draw figures and write their files.

    Raises:
        OSError: a file cannot be written.
    """
    from nnunet_meep.evaluation.report.figures import save_figure

    for draw, png, svg in pictures:
        figure = draw()
        save_figure(figure, png, "png")
        save_figure(figure, svg, "svg")


class Drawing:
    """Another process that loads matplotlib, which takes half a second, and then draws.

    Use :meth:`started`.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Drawing | None]:
        """The process, which ends with the block.

        None where this one has matplotlib already, or where no other can be started.
        """
        if _TO_DRAW[0] in sys.modules:
            yield None
            return
        spawn = multiprocessing.get_context("spawn")
        ours, its_end = spawn.Pipe()
        process = spawn.Process(target=_draw, args=(its_end,), daemon=True)
        try:
            with suppress(OSError), not_for_workers():
                process.start()
            its_end.close()
            yield cls(ours) if process.pid else None
        finally:
            ours.close()
            if process.pid:
                process.terminate()
                process.join()

    def begin(self, pictures: Sequence[Picture]) -> None:
        """Draw pictures there. Their functions and arguments are pickled."""
        with suppress(OSError):  # if the process is gone, save_pictures will be told so
            self._pipe.send(pictures)

    def is_done(self) -> bool:
        """Wait until the pictures are drawn; False if the process ended before that.

        Raises:
            Exception: what :func:`save_pictures` raised there.
        """
        try:
            error = self._pipe.recv()
        except (EOFError, OSError):
            return False
        if error is not None:
            raise error
        return True


def _draw(pipe: Connection) -> None:
    """Load matplotlib, and draw what comes until the other end of the pipe is closed."""
    collect_rarely()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Windows; see not_for_workers
    with suppress(Exception):  # what is wrong is said when it is needed
        for name in _TO_DRAW:
            import_module(name)
    while True:
        try:
            pictures = pipe.recv()
        except EOFError:
            return
        try:
            save_pictures(pictures)
        except Exception as error:
            pipe.send(error)
        else:
            pipe.send(None)
