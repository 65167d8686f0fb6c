"""Coordinates of the page's own pictures, which are inline SVG: scales, ticks and paths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class Scale:
    """A linear scale from values to coordinates of a picture.

    Attributes:
        low, high: the values at its ends; ``low < high``.
        start, end: the coordinates of its ends.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The coordinate of a value, to a tenth; NaN of NaN."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, n: int = 4, *, whole: bool = False) -> list[tuple[float, str]]:
        """About ``n`` round, or whole, values between the ends: coordinate and text of each."""
        from matplotlib.ticker import MaxNLocator

        values = [float(v) for v in MaxNLocator(n, integer=whole).tick_values(self.low, self.high)]
        return [(self(v), f"{v:.6g}") for v in values if self.low <= v <= self.high]


def scale_around(values: Iterable[float], start: float, end: float) -> Scale:
    """A scale with room around the finite ones of some values; from 0 to 1 if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return Scale(0.0, 1.0, start, end)
    low, high = min(finite), max(finite)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low - margin, high + margin, start, end)


def path(points: Sequence[tuple[float, float]]) -> str:
    """A line through points as the content of an SVG path, interrupted where one is not finite.

    A point by itself is a line of length 0, which shows if its ends are round.
    """
    parts: list[str] = []
    for is_there, group in groupby(points, lambda point: all(map(math.isfinite, point))):
        if is_there:
            (x, y), *others = group
            parts += [f"M{x:g} {y:g}", *(f"L{x:g} {y:g}" for x, y in others)]
            parts += [] if others else ["h0"]
    return "".join(parts)
