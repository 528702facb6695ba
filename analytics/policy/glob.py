"""Globs: the one kind of pattern that a policy has. `*` stands for any characters, `/` and none at all among them.

Everything else stands for itself, in upper or lower case. They run over foreign text, so they are made of methods of
`str`: a value is read once from left to right, however the pattern looks.
"""

from __future__ import annotations

from collections.abc import Callable

Glob = Callable[[str], bool]
"""Whether a text, in lower case, is what the pattern means."""


def glob(pattern: str) -> Glob:
    """What tells whether a text in lower case matches `pattern`."""
    first, *rest = pattern.lower().split("*")
    if not rest:
        return first.__eq__
    *inner, last = rest

    def matches(text: str) -> bool:
        at, end = len(first), len(text) - len(last)
        if at > end or not text.startswith(first) or not text.endswith(last):
            return False
        for part in inner:
            at = text.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    return matches
