"""Find the valid name nearest to a wrong one, for the error message."""

from __future__ import annotations

import difflib
import re

from nnunet_meep.trainers.grammar import (
    AUTO,
    BASES,
    OPTIONS,
    PREFIX,
    SEGMENTATION_LOSSES,
    base_name,
    starts_with,
)

# Options as people write them, valid or not: lambda0.30, Lambda_0p3, lamda0p3, auto, 50epoch.
_MEANT = re.compile(
    r"(?P<auto>auto(?:_?lamb?da)?)|(?P<key>lamb?da|gamma|seed|fg)"
    r"(?:(?!_?[0-9]+_?(?:epoch|iter))[_=]?(?P<value>auto|[0-9.,p+-]*[a-z]?))?"
    r"|(?<![0-9])(?P<count>[0-9]+)_?(?P<unit>epoch|iter)s?|(?P<paper>paper)",
    re.IGNORECASE | re.ASCII,
)


def nearest(name: str) -> str:
    """The valid name nearest to a wrong one: what is meant, in the right spelling and order."""
    loss, term = _meant_base(_beside_options(name))
    values: dict[str, str] = {}
    for match in _MEANT.finditer(name):
        if match["paper"]:
            values.setdefault("paper", "_paper")
        elif match["auto"]:
            values.setdefault("lambda", f"_lambda{AUTO}")
        elif match["unit"]:
            key = match["unit"].lower() + "s"
            spelt = match["count"].lstrip("0") + key
            right = OPTIONS[key].pattern.fullmatch(spelt)
            values.setdefault(key, f"_{spelt}" if right else OPTIONS[key].example)
        else:
            key = "lambda" if match["key"].lower().startswith("l") else match["key"].lower()
            values.setdefault(key, _respelt(key, (match["value"] or "").lower()))
    if "gamma" in values:
        loss = "Focal"
    if "lambda" in values and term is None:
        term = "MEEP_KL"
    if term == "CP" and values.get("lambda") == f"_lambda{AUTO}":
        del values["lambda"]
    return base_name(loss, term) + "".join(values[key] for key in OPTIONS if key in values)


def meant(name: str) -> str | None:
    """The valid name that a name which is not ours resembles; None if it resembles none.

    Only the part before the options is compared, because options look alike in all names.
    """
    first = _MEANT.search(name)
    own, options = (name[: first.start()], name[first.start() :]) if first else (name, "")
    own = own.rstrip("_")
    right = starts_with(own, BASES)
    if right and right != own:
        return None  # a user's own nnUNetTrainerDice_something
    letters = _letters(_without_prefix(own))
    # A misspelt prefix was not removed; being long, it makes all names similar: a higher cutoff.
    for prefix, cutoff in (("", 0.8), (PREFIX, 0.9)):
        spellings = {_letters(prefix + base.removeprefix(PREFIX)): base for base in BASES}
        close = difflib.get_close_matches(letters, spellings, n=1, cutoff=cutoff)
        if close:
            return nearest((spellings[close[0]] if prefix else own) + options)
    return None


def _without_prefix(name: str) -> str:
    return name[len(PREFIX) :] if name.lower().startswith(PREFIX.lower()) else name


def _letters(text: str) -> str:
    return re.sub("[^a-z]", "", text.lower())


def _beside_options(name: str) -> str:
    """The text before the options of a wrong name, and that after them if MEEP is there."""
    before, *after = _MEANT.sub("\n", _without_prefix(name)).split("\n")
    return "_".join([before, *after]) if any("meep" in text.lower() for text in after) else before


def _meant_base(text: str) -> tuple[str, str | None]:
    letters = _letters(text)
    before, meep, after = letters.partition("meep")
    term: str | None = None
    if meep:
        term, letters = "MEEP_H" if after.startswith(("h", "ent")) else "MEEP_KL", before
    elif letters.endswith("cp"):
        term, letters = "CP", letters[:-2]
    if not letters:
        return "DiceCE", term
    if term is None:
        known = {base.removeprefix(PREFIX).replace("_", "").lower(): base for base in BASES}
        return BASES[known[difflib.get_close_matches(letters, known, n=1, cutoff=0.0)[0]]]
    losses = {loss.lower(): loss for loss in SEGMENTATION_LOSSES} | {"cedice": "DiceCE"}
    return losses[difflib.get_close_matches(letters, losses, n=1, cutoff=0.0)[0]], term


def _respelt(key: str, value: str) -> str:
    """An option with its value in the valid spelling; the option's example if it is invalid."""
    if key == "lambda" and value == AUTO:
        return f"_lambda{AUTO}"
    match = re.fullmatch(r"\+?([0-9]*)(?:[.,p]([0-9]*))?", value, re.ASCII)
    whole, decimals = (match[1] or "", match[2] or "") if match else ("", "")
    if not whole + decimals:
        return OPTIONS[key].example
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    spelt = f"_{key}{whole}" + (f"p{decimals}" if decimals else "")
    return spelt if OPTIONS[key].pattern.fullmatch(spelt[1:]) else OPTIONS[key].example
