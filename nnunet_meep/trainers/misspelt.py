"""Typing errors in the words of options, such as ``50epohcs``. Standard library only."""

from __future__ import annotations

import re
from string import ascii_lowercase

from nnunet_meep.trainers.grammar import AUTO

_WORDS = ("lambda", f"lambda{AUTO}", "margin", "gamma", "epochs", "epoch", "iters", "seed", "paper")
_LETTERS = re.compile("[a-z]+", re.IGNORECASE | re.ASCII)


def corrected(text: str) -> str:
    """``text`` with misspelt words of options corrected; each has to be a whole run of letters.

    A typing error is one pair of letters swapped or one letter typed twice; in longer words also
    one left out or, in the longest, another one. The first letter is right, and the shorter a word
    the less may be wrong with it, because ``speed2``, ``tiers3`` or ``taper`` are words, too.
    """
    return _LETTERS.sub(lambda match: _CORRECT.get(match[0].lower(), match[0]), text)


def _typing_errors(word: str) -> set[str]:
    cuts = [(word[:i], word[i:]) for i in range(1, len(word))]
    wrong = {before + after[1] + after[0] + after[2:] for before, after in cuts if after[1:]}
    wrong |= {before + after[0] + after for before, after in cuts}
    if len(word) >= 5:
        wrong |= {before + after[1:] for before, after in cuts}
    if len(word) >= 6:
        wrong |= {
            before + letter + after[1:] for before, after in cuts for letter in ascii_lowercase
        }
    return wrong - set(_WORDS)


_CORRECT = {wrong: word for word in reversed(_WORDS) for wrong in _typing_errors(word)}
