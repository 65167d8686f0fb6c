"""How often Python looks for garbage while a command runs."""

from __future__ import annotations

import gc

# Python's default is 700 new objects.
_NEW_OBJECTS = 50_000


def collect_rarely() -> None:
    """Look for garbage less often.

    Imports make some hundred thousand objects and no garbage. With Python's default, a tenth of the
    time in which a command starts would be spent looking through them.
    """
    gc.set_threshold(_NEW_OBJECTS)
