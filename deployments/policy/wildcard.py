"""IAM's wildcards, and its idea of case.

`*` is any run of characters, `?` any single one, and nothing else is special. Not `fnmatch`, whose brackets IAM does
not know, and not `re`, which a hostile pattern (`*a*a*a*…`) can keep busy for hours.
"""

from __future__ import annotations

import string

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def ascii_lower(text: str) -> str:
    """Lower case in ASCII only: `str.lower` would make the Kelvin sign a `k`, and two different names one."""
    return text.translate(_LOWER)


def has_wildcard(text: str) -> bool:
    return "*" in text or "?" in text


def matches(pattern: str, text: str) -> bool:
    """Whether the pattern matches the text, case-sensitively; time at most length × length."""
    return _match(pattern, text, text_is_pattern=False)


def covers(pattern: str, other: str) -> bool:
    """Whether everything that the pattern `other` matches is matched by `pattern` too (sound, not complete)."""
    return _match(pattern, other, text_is_pattern=True)


def _match(pattern: str, text: str, *, text_is_pattern: bool) -> bool:
    at = here = 0
    star = retry = -1  # where the last `*` stood, and from where in the text to try again
    while here < len(text):
        wanted = pattern[at] if at < len(pattern) else None
        if wanted == "*":
            star, retry = at, here
            at += 1
        elif wanted is not None and _one(wanted, text[here], text_is_pattern=text_is_pattern):
            at += 1
            here += 1
        elif star >= 0:
            retry += 1
            at, here = star + 1, retry
        else:
            return False
    return all(rest == "*" for rest in pattern[at:])


def _one(wanted: str, found: str, *, text_is_pattern: bool) -> bool:
    if text_is_pattern and found == "*":
        return False  # a run of any length is more than one character
    return wanted in ("?", found)
