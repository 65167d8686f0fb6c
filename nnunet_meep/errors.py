"""What a command turns into one clear line: the exception for bad input, the system's errors."""

import difflib
from collections.abc import Iterable

_LONGEST = 1000  # characters of a line; what a damaged file holds may fill many screens


class InputError(ValueError):
    """Something the user gave (a file, a folder, an argument) cannot be used.

    The message is one line: the file or argument, what was expected, what was found, what to do; or
    several, one for each problem. Commands print it without a traceback and exit with 1. Names in
    it may be anything that a file can be called: see :func:`printable`.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*(_shortened(printable(line)) for line in lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


def _shortened(line: str) -> str:
    if len(line) <= _LONGEST:
        return line
    # The file is named at its beginning, what to do at its end.
    return f"{line[: _LONGEST // 2]} ... {line[5 - _LONGEST // 2 :]}"


def printable(text: str) -> str:
    r"""Text in one line that every terminal, file and picture can show.

    What cannot be printed becomes an escape as in Python: a line break ``\n``, the beginning of a
    command for the terminal ``\x1b``, a byte that is not UTF-8 ``\udcff``.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def described(error: OSError) -> str:
    """The system's message, such as that the disk is full, and the file, in one line."""
    name = error.filename2 or error.filename  # of two the one that was to be written
    where = f"{name}: " if name else ""
    return printable(f"{where}{error.strerror or error}")


def is_meant(wrong: str, names: Iterable[str]) -> str:
    """``is X meant? `` with the name that is nearest to a wrong one; empty if none is near.

    For the beginning of what was expected, as the list of all names may be long.
    """
    near = difflib.get_close_matches(wrong, list(names), 1)
    return f"is {near[0]} meant? " if near else ""
