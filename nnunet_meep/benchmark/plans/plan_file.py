"""Read a plan's TOML file table by table, and name the line of what is wrong in it."""

from __future__ import annotations

import math
import re
import reprlib
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn

from nnunet_meep.errors import InputError, is_meant

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Stands for "no default": the key has to be there.
REQUIRED: Any = object()
#: Shows values in messages, those that are long or deep not in full.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


class PlanFile:
    """The content of a TOML file, with the text that it was read from.

    Raises:
        InputError: the file cannot be read, or is not TOML.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.text = path.read_text(encoding="utf-8-sig")  # editors on Windows mark it
            self.content: dict[str, Any] = tomllib.loads(self.text)
        except OSError as error:
            raise InputError(
                f"{path}: expected a plan, cannot read it ({error.strerror}); "
                f"meep-benchmark init writes one"
            ) from None
        except (ValueError, RecursionError) as error:  # also an integer of 5000 digits
            what = " ".join(str(error).split())
            raise InputError(f"{path}: expected a plan in TOML, cannot read it: {what}") from None

    def fail(self, what: str, problem: str, start: int = 0) -> NoReturn:
        """Raise an ``InputError`` that names the first line where ``what`` stands.

        Args:
            what: a string or a key of the file.
            problem: what was expected, what came, what to do.
            start: number of lines to leave out at the top, as long as ``what`` stands below them.
        """
        one_line = " ".join(problem.split())
        raise InputError(f"{self.path}{self._line(what, start)}: {one_line}")

    def _line(self, what: str, start: int) -> str:
        lines = [line.split("#")[0] for line in self.text.splitlines()]
        key, bare = re.escape(what), rf"(?<![\w-]){re.escape(what)}(?![\w-])"
        patterns = (rf"(^|[{{,.])\s*[\"']?{key}[\"']?\s*=", rf"[\"']{key}[\"']", bare)
        for first in (start, 0):
            for pattern in patterns:
                for number, line in enumerate(lines[first:], first + 1):
                    if re.search(pattern, line):
                        return f", line {number}"
        return f", line {start + 1}" if start else ""

    def table(self, content: Any, name: str, nth: int = 0) -> Table:
        """A table of the file.

        Args:
            content: what the file has in its place.
            name: what its heading says.
            nth: how many tables with this heading stand above it.
        """
        if not isinstance(content, dict):
            self.fail(name.strip("[]"), f"expected a table {name}, got {_SHORT.repr(content)}")
        lines = enumerate(self.text.splitlines())
        starts = [number for number, line in lines if line.strip().startswith(name)]
        return Table(self, content, name, starts[nth] if nth < len(starts) else 0)


class Table:
    """Takes the values of a table one by one, and refuses what is left."""

    def __init__(self, file: PlanFile, content: dict[str, Any], name: str, start: int) -> None:
        self._file, self._content, self._name, self.start = file, dict(content), name, start
        self._known: list[str] = []

    def take(
        self,
        key: str,
        is_right: Callable[[Any], bool],
        expected: str,
        default: Any = REQUIRED,
        names: Collection[str] = (),
    ) -> Any:
        """The value of a key, or ``default`` if it is not there.

        Args:
            is_right: whether a value can be taken.
            expected: what can be taken, in words.
            names: the right ones, if it is a name or a list of names.
        """
        self._known.append(key)
        if key not in self._content:
            if default is REQUIRED:
                for other in self._content:
                    if meant := is_meant(other, [key]):
                        self.fail(other, f"{self._name} {other}: not known; {meant.rstrip()}")
                self._file.fail(
                    self._name.strip("[]"),
                    f"{self._name}: expected {key} = {expected}, found none",
                    self.start,
                )
            return default
        value = self._content.pop(key)
        if not is_right(value):
            given = value if isinstance(value, list) else [value]
            wrong = [name for name in given if isinstance(name, str) and name not in names]
            meant = is_meant(wrong[0], names) if wrong else ""
            got = _SHORT.repr(value)
            self.fail(key, f"{self._name} {key}: {meant}expected {expected}, got {got}")
        return value

    def fail(self, what: str, problem: str) -> NoReturn:
        """As :meth:`PlanFile.fail`, of something in this table."""
        self._file.fail(what, problem, self.start)

    def inner(self, content: dict[str, Any], name: str) -> Table:
        """A table inside this one."""
        return Table(self._file, content, name, self.start)

    def finish(self) -> None:
        """Refuse keys that nothing took."""
        for key in self._content:
            self.fail(
                key,
                f"{self._name} {key}: not known; {is_meant(key, self._known)}expected one of "
                f"{', '.join(self._known)}",
            )


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def is_whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    """Whether it is a finite number above 0."""
    is_it = isinstance(value, int | float) and not isinstance(value, bool)
    return is_it and 0 < value < math.inf


def is_list(value: Any, of: Callable[[Any], bool]) -> bool:
    """Whether it is a list, not empty, of different values that all pass ``of``."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(map(of, value))
        and all(value.index(x) == i for i, x in enumerate(value))
    )
