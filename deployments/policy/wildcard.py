"""IAM's wildcards, and lower case in ASCII.

`*` matches any number of characters, `?` exactly one, and no other character is special. `fnmatch` is not used, because
it also gives brackets a meaning; `re` is not used, because a hostile pattern (`*a*a*a*…`) can keep it busy for hours.
"""

from __future__ import annotations

import string

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def ascii_lower(text: str) -> str:
    """Lower case in ASCII only: `str.lower` turns the Kelvin sign into `k`, so two different names would be equal."""
    return text.translate(_LOWER)


def has_wildcard(text: str) -> bool:
    """Whether the text contains `*` or `?`."""
    return "*" in text or "?" in text


def matches(pattern: str, text: str) -> bool:
    """Whether the pattern matches the text, case-sensitively, in at most len(pattern) × len(text) steps."""
    if len(pattern) - pattern.count("*") > len(text):
        return False  # every other character of the pattern needs one of the text
    return _match(pattern, text, text_is_pattern=False)


def covers(pattern: str, other: str) -> bool:
    """Whether `pattern` matches every text that the pattern `other` matches. True is proved; False may be wrong."""
    return _match(pattern, other, text_is_pattern=True)


def _match(pattern: str, text: str, *, text_is_pattern: bool) -> bool:
    at = here = 0
    star = retry = -1  # the index of the last `*` in the pattern, and the index in the text to try again from
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
