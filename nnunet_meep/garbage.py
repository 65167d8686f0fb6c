"""How often Python looks for garbage while a command runs."""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()  # of new objects; 700 until Python 3.11
_NEW_OBJECTS = 50_000


def collect_rarely() -> None:
    """Look for garbage less often.

    Imports make some hundred thousand objects and no garbage. With Python's default, a tenth of the
    time in which a command starts would be spent looking through them.
    """
    gc.set_threshold(_NEW_OBJECTS)


def collect_as_usual() -> None:
    """Look for garbage as often as before :func:`collect_rarely`, once all is imported.

    Each case leaves some garbage (numpy reads the header of an array with closures that refer to
    each other). Of thousands of cases it would take more memory than their results.
    """
    if gc.get_threshold()[0] == _NEW_OBJECTS:
        gc.set_threshold(*_USUAL)
