"""What the catalogue says about a metric: name, definition, unit, and which values are good."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


class Better(Enum):
    """Which values of a metric are good, in words."""

    HIGHER = "Higher is better."
    LOWER = "Lower is better."
    NEAR_ONE = (
        "1 is right; below 1 the network is overconfident. Models are compared by how far their "
        'cases are from 1 on average ("off by" in tables).'
    )
    NEITHER = ""  # for information only, not compared between models


class Of(Enum):
    """What a metric is computed for."""

    CLASS = "one class, or one of nnU-Net's regions, against the rest"
    REGION = "one of nnU-Net's regions, cut at p > 1/2"
    TOP_LABEL = "the predicted label"


class Unit(NamedTuple):
    """The unit in which values are printed.

    Attributes:
        name: name of the unit; "" if there is none.
        digits: number of digits after the decimal point.
        scale: factor that converts the metric to this unit.
    """

    name: str = ""
    digits: int = 3
    scale: float = 1


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: name for headings, without the unit.
        definition: definition in a sentence or two, with its source.
        better: which values are good.
        of: what it is computed for.
        function: dotted name, below this package, of the function that computes it.
        unit: the unit in which values are printed.
    """

    name: str
    definition: str
    better: Better = Better.LOWER
    of: tuple[Of, ...] = (Of.CLASS,)
    function: str = field(kw_only=True)
    unit: Unit = field(default=Unit(), kw_only=True)

    @property
    def heading(self) -> str:
        """Name and unit."""
        return f"{self.name} {self.unit.name}".rstrip()

    @property
    def explanation(self) -> str:
        """The definition, and which values are good."""
        return f"{self.definition} {self.better.value}".rstrip()

    def number(self, value: float, sign: str = "") -> str:
        """A value as text, in the unit of the heading; ``sign="+"`` adds a plus if positive."""
        # Adding 0.0 turns -0.0 into 0.0, so that a rounded zero has no minus sign.
        rounded = round(value * self.unit.scale, self.unit.digits) + 0.0
        return format(rounded, f"{sign}.{self.unit.digits}f")
