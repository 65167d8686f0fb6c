"""``python -m nnunet_meep``: list the commands of this package, one line each."""

from __future__ import annotations

import ast
import signal
from pathlib import Path


def main() -> None:
    """Print each command with the first line of its module's docstring."""
    if hasattr(signal, "SIGPIPE"):  # `| head` ends it without a traceback
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    commands = {}
    for path in sorted((Path(__file__).parent / "cli").glob("[a-z]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        command, _, what = docstring.splitlines()[0].partition(": ")
        commands[command.strip("`")] = what
    width = max(map(len, commands))
    for command, what in commands.items():
        print(f"{command:<{width}}  {what}")
    print("\nEach command has a --help.")


if __name__ == "__main__":
    main()
