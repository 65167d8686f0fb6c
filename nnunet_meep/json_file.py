"""Read JSON files, which may be damaged, or made so that a program falls over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Deeper lists and objects are refused: whatever works on them by recursion would fail.
_MAX_DEPTH = 100


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or nested more than 100 times; the message is one line.
    """
    return parse_json(path.read_bytes())


def parse_json(text: bytes) -> Any:
    """The content of JSON text in UTF-8, UTF-16 or UTF-32; raises ``ValueError`` as above."""
    too_deep = f"lists or objects nested more than {_MAX_DEPTH} times"
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError(too_deep) from None
    level = [content]
    for _ in range(_MAX_DEPTH):
        level = [
            value
            for container in level
            if isinstance(container, dict | list)
            for value in (container.values() if isinstance(container, dict) else container)
            if isinstance(value, dict | list)
        ]
        if not level:
            return content
    raise ValueError(too_deep)
