"""Passphrases that protect a vault: made up, or judged.

A made-up one has only letters that lie on the same keys of US, German, French and most other Latin layouts (not A, M,
Q, W, Y, Z), so it is typed right even where the keyboard's layout is not the one that is set.
"""

from __future__ import annotations

import math
import secrets
import string
from collections.abc import Callable, Sequence

CONSONANTS = "bcdfghjklnprstv"
VOWELS = "eiou"
WORDS = 5
LEAST_BITS = 70.0
_PATTERN = (CONSONANTS, VOWELS, CONSONANTS, VOWELS, CONSONANTS)
#: Bits of a made-up passphrase.
GENERATED_BITS = WORDS * sum(math.log2(len(letters)) for letters in _PATTERN)
_PRINTABLE = frozenset(string.printable[:95])


def generate(choose: Callable[[Sequence[str]], str] = secrets.choice) -> str:
    """Five words such as `gobul tovek ridon hulev sipor`, 78 bits."""
    return " ".join("".join(choose(letters) for letters in _PATTERN) for _ in range(WORDS))


def typable(passphrase: str) -> bool:
    """Whether every keyboard has its characters: printable ASCII."""
    return set(passphrase) <= _PRINTABLE


def bits(passphrase: str) -> float:
    """How many bits of guessing a person's own passphrase is worth, as zxcvbn (USENIX Security 2016) reckons."""
    from zxcvbn import zxcvbn  # noqa: PLC0415 - its word lists take a moment to load

    # It looks at 72 characters at most; more can only be better.
    return math.log2(float(zxcvbn(passphrase[:72])["guesses"]))
