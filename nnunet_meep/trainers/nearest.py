"""Find the valid name nearest to a wrong one, for the error message."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field, replace

from nnunet_meep.trainers.grammar import (
    AUTO,
    BASES,
    OPTIONS,
    PREFIX,
    SEGMENTATION_LOSSES,
    TERMS,
    WITH_GAMMA,
    base_name,
    misfit,
    starts_with,
)
from nnunet_meep.trainers.misspelt import corrected

# Options as people write them, valid or not: lambda0.30, Lambda_0p3, auto, 50epoch, epochs50.
_UNIT = r"epochs?|(?<![a-z])ep(?![a-z])|iter(?:ation)?s?"
_COUNT = rf"(?<![0-9])(?P<count>[+-]?[0-9][0-9.,pe+-]*)_?(?P<unit>{_UNIT})"
_NO_VALUE = r"(?P<auto>auto(?:_?lamb?da)?)|(?P<paper>paper)"
_KEY = (
    r"(?P<key>lamb?da|lam(?=_?[0-9.,])|(?<![a-z])l(?=_?[0-9]*[.,p][0-9])|margin|gamma|seed|fg"
    rf"|{_UNIT})"
)
_VALUE = (
    r"[_=]?(?P<value>auto|[.,p+-]?[0-9][^_=\s]*?(?=[_=\s]|lamb?da|margin|gamma|seed|fg|paper|$))"
)
# A number between two words belongs to the second one in lambda_50epochs, to the first one in
# lambda_1_epochs_50: the reading that leaves less over is right.
_READINGS = [
    re.compile(expression, re.IGNORECASE | re.ASCII)
    for expression in (
        rf"{_COUNT}|{_NO_VALUE}|{_KEY}(?:(?!_?[0-9]+_?(?:ep|iter)){_VALUE})?",
        rf"{_NO_VALUE}|{_KEY}(?:{_VALUE})?",
    )
]
# How nnU-Net names trainers of its own, of which it has some.
_NNUNETS_OWN = re.compile(rf"{PREFIX}((_[0-9]+ep(ochs?)?)+|\w*Loss(_\w*)?)")
# Which MEEP term is meant, behind MEEP: H, entropy; KL, LK, KLdiv. A capital letter begins a word.
_OF_MEEP = re.compile(
    r"((?P<entropy>h|ent(ropy)?)|kl(d|-?div(ergence)?)?|lk|k|div(ergence)?)(?-i:(?![a-z]))",
    re.IGNORECASE,
)
# The digits in names of terms, which are no numbers.
_WITH_DIGITS = re.compile(
    "|".join("-?".join(name) for name in TERMS if re.search("[0-9]", name)), re.IGNORECASE
)


@dataclass
class _Reading:
    """What the options of a text mean.

    Attributes:
        values: options in the valid spelling, by their keys.
        beside: the text between the options; the first one precedes all of them.
        unreadable: options without a valid value, for which ``values`` has an example.
        left_out: what else stands behind the first option and is not in ``values``.
    """

    values: dict[str, str] = field(default_factory=dict)
    beside: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not self.unreadable and not self.left_out


def nearest(name: str) -> str:
    """The valid name nearest to a wrong one: what is meant, in the right spelling and order."""
    return _nearest(name)[0]


def suggestion(name: str) -> str:
    """:func:`nearest` as the end of a sentence that also says what of ``name`` is not in it."""
    right, reading = _nearest(name)
    but = []
    if reading.unreadable:
        but.append(f"with an example in place of {_quoted(reading.unreadable)}")
    if reading.left_out:
        but.append(f"without {_quoted(reading.left_out)}")
    clause = f", {' and '.join(but)}," if but else ""
    return f"the nearest right name{clause} is {right}"


def meant(name: str) -> str | None:
    """:func:`suggestion` for a name that is not ours, but resembles one; None if it does not.

    Only the part before the options is compared, because options look alike in all names.
    """
    if _NNUNETS_OWN.fullmatch(name):
        return None
    name = corrected(name)
    reading = _read(name)
    own, options = reading.beside[0].rstrip("_"), name[len(reading.beside[0]) :]
    if own == PREFIX or own in BASES:
        # Anything unknown makes it a user's own nnUNetTrainerDice_60epochs_something.
        return suggestion(name) if options and reading.complete else None
    if starts_with(own, BASES):
        return None  # a user's own nnUNetTrainerDice_something
    letters = _letters(_without_prefix(own))
    # A misspelt prefix was not removed; being long, it makes all names similar: a higher cutoff,
    # and nothing may be wrong with what follows it.
    for prefix, cutoff in (("", 0.8), (PREFIX, 0.9)):
        bases = {_letters(base.removeprefix(PREFIX)): base for base in BASES}
        spellings = {
            _letters(prefix) + spelling: base
            for spelling, base in bases.items()
            if not prefix or letters.endswith(spelling)
        }
        close = difflib.get_close_matches(letters, spellings, n=1, cutoff=cutoff)
        if close:
            return suggestion(f"{spellings[close[0]] if prefix else own}_{options}")
    return None


def _nearest(name: str) -> tuple[str, _Reading]:
    reading = _read(_without_prefix(corrected(name)))
    before, *after = reading.beside
    base = "_".join([before, *(text for text in after if _has_meep(text))])
    loss, term, unused = _meant_base(base)
    values = dict(reading.values)
    # The DA5 of nnUNetTrainerDA5_MEEP_KL is not in the base.
    parts = re.split("_|meep", _WITH_DIGITS.sub("", base), flags=re.IGNORECASE)
    unused += [part for part in parts if re.search("[0-9]", part)]
    left_out = [*dict.fromkeys(unused), *reading.left_out]
    if (
        "gamma" in values
        and loss not in WITH_GAMMA
        and (term is None or "Focal" in TERMS[term].weights)
    ):
        loss = "Focal"
    if term is None and values.keys() & {"lambda", "margin"}:
        term = "MbLS" if "margin" in values else "MEEP_KL"
    if term is not None and loss not in TERMS[term].weights:
        loss = "DiceCE"
    for key, spelt in list(values.items()):
        value = OPTIONS[key].pattern.fullmatch(spelt[1:])
        if value and misfit(key, value[1], loss, term):
            left_out.append(values.pop(key)[1:])
    right = base_name(loss, term) + "".join(values[key] for key in OPTIONS if key in values)
    return right, replace(reading, values=values, left_out=left_out)


def _read(text: str) -> _Reading:
    readings = (_read_as(expression, text) for expression in _READINGS)
    return min(readings, key=lambda r: len(r.unreadable) + len(r.left_out))


def _read_as(expression: re.Pattern[str], text: str) -> _Reading:
    reading, end = _Reading(), 0
    found: dict[str, list[tuple[str | None, str]]] = {}
    for match in expression.finditer(text):
        groups = match.groupdict()
        reading.beside.append(text[end : match.start()])
        end = match.end()
        spelt: str | None
        if groups["paper"]:
            key, spelt = "paper", OPTIONS["paper"].example
        elif groups["auto"]:
            key, spelt = "lambda", f"_lambda{AUTO}"
        else:
            key = _key(groups.get("unit") or groups["key"])
            spelt = _respelt(key, groups.get("count") or groups["value"] or "")
        found.setdefault(key, []).append((spelt, match[0]))
    reading.beside.append(text[end:])
    reading.left_out += [
        rest for t in reading.beside[1:] if (rest := t.strip("_=-")) and not _has_meep(t)
    ]
    for key, options in found.items():
        readable = [spelt for spelt, _ in options if spelt]
        reading.values[key] = readable[0] if readable else OPTIONS[key].example
        if not readable:
            reading.unreadable.append(options[0][1])
        reading.left_out += [t for spelt, t in options[1:] if spelt != reading.values[key]]
    return reading


def _key(word: str) -> str:
    """The key of an option that is spelt ``word``: lamda, l; epoch, ep; iteration."""
    first = word.lower()[0]
    return next(key for key in OPTIONS if key.startswith(first))


def _respelt(key: str, value: str) -> str | None:
    """An option with its value in the valid spelling; None if it is no valid value."""
    if key == "lambda" and value.lower() == AUTO:
        return f"_lambda{AUTO}"
    match = re.fullmatch(r"\+?([0-9]*)(?:[.,p]([0-9]+))?", value.lower(), re.ASCII)
    if not value or not match:
        return None
    whole, decimals = match[1].lstrip("0") or "0", (match[2] or "").rstrip("0")
    number = whole + (f"p{decimals}" if decimals else "")
    spelt = f"{number}{key}" if key in ("epochs", "iters") else f"{key}{number}"
    return f"_{spelt}" if OPTIONS[key].pattern.fullmatch(spelt) else None


def _quoted(texts: list[str]) -> str:
    return ", ".join(map(repr, texts))


def _has_meep(text: str) -> bool:
    return "meep" in text.lower()


def _without_prefix(name: str) -> str:
    return name[len(PREFIX) :] if name.lower().startswith(PREFIX.lower()) else name


def _letters(text: str) -> str:
    return re.sub("[^a-z]", "", text.lower())


def _meant_base(text: str) -> tuple[str, str | None, list[str]]:
    """The loss and the term that are meant, and the parts of the text that are in neither."""
    letters = _letters(text).replace("loss", "")
    known = {_letters(base.removeprefix(PREFIX)): pair for base, pair in BASES.items()}
    if letters in known:
        return (*known[letters], [])
    losses = {loss.lower(): loss for loss in SEGMENTATION_LOSSES} | {"cedice": "DiceCE"}
    before, *behind = re.split("meep", text, maxsplit=1, flags=re.IGNORECASE)
    letters = _letters(before).replace("loss", "")
    unused: list[str] = []
    term: str | None = None
    if behind:
        after, *more = behind[0].strip("_").split("_")
        kind = _OF_MEEP.match(after)
        term = "MEEP_H" if kind and kind["entropy"] else "MEEP_KL"
        rest = after[kind.end() if kind else 0 :]
        unused = [part for part in (rest.strip("-"), *more) if part]
        if not letters and unused and unused[0].lower() in losses:  # MEEP_KL_Dice
            letters = unused.pop(0).lower()
    else:
        ends = [name for name in TERMS if letters.endswith(_letters(name))]
        if ends:  # MbLS ends with LS
            term = max(ends, key=len)
            letters = letters.removesuffix(_letters(term))
    if not letters:
        return "DiceCE", term, unused
    if term is None:
        return (*known[difflib.get_close_matches(letters, known, n=1, cutoff=0.0)[0]], unused)
    close = difflib.get_close_matches(letters, losses, n=1, cutoff=0.6)
    if not close:
        unused.insert(0, before.strip("_") if behind else letters)
    return losses[close[0]] if close else "DiceCE", term, unused
