"""What all commands do with errors: one line on stderr, exit code 1, no traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from nnunet_meep.errors import InputError


def run(action: Callable[[], None]) -> int:
    """Run ``action``: 0 if it returns, 1 after one line on stderr if the input was bad.

    130 if it was interrupted, 141 if whoever read its output has gone.
    """
    try:
        action()
        sys.stdout.flush()  # here, not at exit, where Python prints a traceback if nobody reads
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `meep-trainers | head`: the end that one wanted, as with cat
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # what a shell reports for SIGPIPE
    except OSError as error:  # disk full, no permission: the system's words, and which file
        where = f"{error.filename}: " if error.filename else ""
        print(f"Error: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted", file=sys.stderr)
        return 130
    return 0
