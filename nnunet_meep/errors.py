"""The exception for bad input, which a command turns into one clear line."""


class InputError(ValueError):
    """Something the user gave (a file, a folder, an argument) cannot be used.

    The message is one line: the file or argument, what was expected, what was found, what to do.
    Commands print it without a traceback and exit with 1.
    """
