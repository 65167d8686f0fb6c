"""What the parsers of all commands share."""

from __future__ import annotations

import argparse
from typing import Any

from nnunet_meep import __version__


def command_parser(prog: str, **options: Any) -> argparse.ArgumentParser:
    """A parser with ``--version``, whose description and epilog are printed as they are.

    Args:
        prog: name of the command.
        options: others of ``argparse.ArgumentParser``.
    """
    parser = argparse.ArgumentParser(
        prog=prog, formatter_class=argparse.RawDescriptionHelpFormatter, **options
    )
    version = f"{prog} {__version__}"
    parser.add_argument("--version", action="version", version=version, help="show the version")
    return parser
