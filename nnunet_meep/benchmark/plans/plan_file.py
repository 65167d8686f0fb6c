"""Read a plan's TOML file table by table, and name the line of what is wrong in it."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from nnunet_meep.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Stands for "no default": the key has to be there.
REQUIRED: Any = object()


class PlanFile:
    """The content of a TOML file, with the text that it was read from.

    Raises:
        InputError: the file cannot be read, or is not TOML.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.text = path.read_text(encoding="utf-8")
            self.content: dict[str, Any] = tomllib.loads(self.text)
        except OSError as error:
            raise InputError(
                f"{path}: expected a plan, cannot read it ({error.strerror}); "
                f"meep-benchmark init writes one"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"{path}: expected TOML, found something else: {error}") from None

    def fail(self, what: str, problem: str) -> NoReturn:
        """Raise an ``InputError`` that names the first line where ``what`` stands.

        Args:
            what: a string or a key of the file.
            problem: what was expected, what came, what to do.
        """
        raise InputError(f"{self.path}{self._line(what)}: {problem}")

    def _line(self, what: str) -> str:
        quoted, bare = rf"[\"']{re.escape(what)}[\"']", rf"(?<![\w-]){re.escape(what)}(?![\w-])"
        for pattern in (quoted, bare):
            for number, line in enumerate(self.text.splitlines(), 1):
                if re.search(pattern, line.split("#")[0]):
                    return f", line {number}"
        return ""

    def table(self, content: Any, name: str) -> Table:
        """A table of the file; ``name`` is what its heading says."""
        if not isinstance(content, dict):
            self.fail(name.strip("[]"), f"expected a table {name}, got {content!r}")
        return Table(self, content, name)


class Table:
    """Takes the values of a table one by one, and refuses what is left."""

    def __init__(self, file: PlanFile, content: dict[str, Any], name: str) -> None:
        self._file, self._content, self._name = file, dict(content), name
        self._known: list[str] = []

    def take(
        self, key: str, is_right: Callable[[Any], bool], expected: str, default: Any = REQUIRED
    ) -> Any:
        """The value of a key, or ``default`` if it is not there."""
        self._known.append(key)
        if key not in self._content:
            if default is REQUIRED:
                self._file.fail(
                    self._name.strip("[]"), f"{self._name}: expected {key} = {expected}, found none"
                )
            return default
        value = self._content.pop(key)
        if not is_right(value):
            self._file.fail(key, f"{self._name} {key}: expected {expected}, got {value!r}")
        return value

    def finish(self) -> None:
        """Refuse keys that nothing took."""
        for key in self._content:
            near = difflib.get_close_matches(key, self._known, 1)
            meant = f"; is {near[0]} meant?" if near else ""
            self._file.fail(
                key,
                f"{self._name} {key}: not known{meant} (known: {', '.join(self._known)})",
            )


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def is_whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    """Whether it is a number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def is_list(value: Any, of: Callable[[Any], bool]) -> bool:
    """Whether it is a list, not empty, of different values that all pass ``of``."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(map(of, value))
        and all(value.index(x) == i for i, x in enumerate(value))
    )
