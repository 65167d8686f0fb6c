"""The exception for bad input, which a command turns into one clear line."""

_LONGEST = 1000  # characters of a message; what a damaged file holds may fill many screens


class InputError(ValueError):
    """Something the user gave (a file, a folder, an argument) cannot be used.

    The message is one line: the file or argument, what was expected, what was found, what to do.
    Commands print it without a traceback and exit with 1. Names in it may be anything that a file
    can be called: see :func:`printable`.
    """

    def __init__(self, message: str) -> None:
        line = printable(message)
        if len(line) > _LONGEST:  # the file is named at its beginning, what to do at its end
            line = f"{line[: _LONGEST // 2]} ... {line[5 - _LONGEST // 2 :]}"
        super().__init__(line)


def printable(text: str) -> str:
    r"""Text in one line that every terminal, file and picture can show.

    What cannot be printed becomes an escape as in Python: a line break ``\n``, the beginning of a
    command for the terminal ``\x1b``, a byte that is not UTF-8 ``\udcff``.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
