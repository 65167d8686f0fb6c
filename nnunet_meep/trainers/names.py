"""What a trainer name means: one grammar, here and nowhere else. Standard library only.

``nnUNetTrainer`` + segmentation loss + term + options::

    nnUNetTrainerMEEP_KL                      nnU-Net's Dice + CE, MEEP-KL with lambda 0.3
    nnUNetTrainerDiceMEEP_H_lambda0p5         Dice alone, MEEP-H with lambda 0.5
    nnUNetTrainerCE_50epochs_100iters         cross-entropy alone, a short training

- segmentation loss: nothing = nnU-Net's default Dice + CE, ``Dice``, ``CE``; spelt out as
  ``DiceCE`` where there is no term, so that every baseline takes the same options;
- term: ``MEEP_KL``, ``MEEP_H``, or nothing;
- options, in this order: ``_lambda0p3`` (weight of the term, a ``p`` for the decimal point),
  ``_50epochs``, ``_100iters`` (training iterations per epoch; the validation iterations are a
  fifth of them, at least 5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PREFIX = "nnUNetTrainer"
SEGMENTATION_LOSSES = ("DiceCE", "Dice", "CE")
TERMS = ("MEEP_KL", "MEEP_H")
#: lambda where the name gives none: the smaller of the paper's two best values for Dice and for
#: CE; Dice + CE is not in the paper.
DEFAULT_LAMBDA = {"DiceCE": 0.3, "Dice": 0.5, "CE": 0.1}
EXAMPLE = "nnUNetTrainerMEEP_KL_lambda0p3_50epochs_100iters"

# What is meant as an option of ours, right or wrong; a user's own nnUNetTrainerDice_v2 is not.
_OPTION_SHAPE = re.compile(r"lambda(?![A-Z]).*|[\d.p-]+(epoch|iter)s?")
_LAMBDA = re.compile(r"lambda((?:0|[1-9][0-9]*)(?:p[0-9]*[1-9])?)")
_EPOCHS = re.compile(r"([1-9][0-9]*)epochs")
_ITERS = re.compile(r"([1-9][0-9]*)iters")


class TrainerNameError(ValueError):
    """A name that is ours by its first part and wrong in the rest. One line."""


@dataclass(frozen=True)
class Experiment:
    """What a trainer name asks for. None stands for nnU-Net's own value."""

    name: str
    segmentation_loss: str  # one of SEGMENTATION_LOSSES
    term: str | None  # one of TERMS
    weight: float  # lambda; 0 without a term
    epochs: int | None = None
    iterations: int | None = None  # per epoch

    @property
    def validation_iterations(self) -> int | None:
        """A fifth of the training iterations, as nnU-Net has 50 for 250; at least 5."""
        return None if self.iterations is None else max(5, self.iterations // 5)


def base_names() -> list[str]:
    """Every name without options, in the order of the README."""
    names = []
    for loss in SEGMENTATION_LOSSES:
        names.append(PREFIX + loss)
        names += [PREFIX + ("" if loss == "DiceCE" else loss) + term for term in TERMS]
    return names


def parse(name: str) -> Experiment | None:
    """The experiment that ``name`` stands for; None if the name is not ours.

    Ours are the names that begin with one of :func:`base_names` and go on with nothing, or with
    ``_`` and parts shaped like options; and all that contain ``MEEP``.

    Raises:
        TrainerNameError: the name is ours and wrong; the message says which part.
    """
    if not name.startswith(PREFIX):
        return None
    bases = sorted(base_names(), key=len, reverse=True)
    base = next((b for b in bases if name == b or name.startswith(b + "_")), None)
    contains_meep = "MEEP" in name
    if base is None:
        if contains_meep:
            raise TrainerNameError(
                f"{name}: expected one of {', '.join(base_names())}, then options, "
                f"for example {EXAMPLE}"
            )
        return None
    parts = name[len(base) + 1 :].split("_") if name != base else []
    if not contains_meep and not all(_OPTION_SHAPE.fullmatch(part) for part in parts):
        return None  # a user's own nnUNetTrainerDice_something

    rest = base[len(PREFIX) :]
    term = next((t for t in TERMS if rest.endswith(t)), None)
    loss = (rest.removesuffix(term) if term else rest) or "DiceCE"
    values: dict[str, str] = {}
    remaining = list(parts)
    for option, pattern in (("lambda", _LAMBDA), ("epochs", _EPOCHS), ("iters", _ITERS)):
        match = pattern.fullmatch(remaining[0]) if remaining else None
        if match:
            values[option] = match[1]
            remaining.pop(0)
    if remaining:
        raise TrainerNameError(
            f"{name}: '{remaining[0]}' is not an option at this place; expected, in this order and "
            f"each at most once, _lambda0p3 (no trailing zeros), _50epochs, _100iters "
            f"(at least 1), for example {EXAMPLE}"
        )
    if "lambda" in values and term is None:
        raise TrainerNameError(
            f"{name}: 'lambda{values['lambda']}' needs a term to weigh, for example "
            f"{PREFIX}{'' if loss == 'DiceCE' else loss}MEEP_KL_lambda{values['lambda']}"
        )
    weight = (
        float(values["lambda"].replace("p", ".")) if "lambda" in values else DEFAULT_LAMBDA[loss]
    )
    return Experiment(
        name=name,
        segmentation_loss=loss,
        term=term,
        weight=weight if term else 0.0,
        epochs=int(values["epochs"]) if "epochs" in values else None,
        iterations=int(values["iters"]) if "iters" in values else None,
    )
