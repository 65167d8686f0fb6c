"""The argument parser that all commands share."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any, NoReturn

from nnunet_meep import __version__
from nnunet_meep.cli._run import flush
from nnunet_meep.errors import printable


class _Parser(argparse.ArgumentParser):
    """A parser whose epilog may be a function, for text that is slow to make and rarely shown.

    What is wrong is said in one line, as by all commands, without the usage before it.
    """

    def format_help(self) -> str:
        if callable(self.epilog):
            self.epilog = self.epilog()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"Error: {printable(message)}; see {self.prog} --help\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        with contextlib.suppress(OSError):  # nobody reads it; Python 3.10 does not catch that
            # Letters that the terminal's encoding does not have, as escapes.
            encoding = getattr(file, "encoding", None) or "utf-8"
            shown = message.encode(encoding, "backslashreplace").decode(encoding)
            super()._print_message(shown, file)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        super().exit(flush(status), message)


def command_parser(prog: str, **options: Any) -> argparse.ArgumentParser:
    """A parser with ``--version``, whose description and epilog are printed unchanged.

    Args:
        prog: name of the command.
        options: other arguments of ``argparse.ArgumentParser``; ``epilog`` may be a function
            without arguments.
    """
    parser = _Parser(prog=prog, formatter_class=argparse.RawDescriptionHelpFormatter, **options)
    version = f"{prog} {__version__}"
    parser.add_argument("--version", action="version", version=version, help="show the version")
    return parser
