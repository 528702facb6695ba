"""Templates: what failures that no signature knows have in common, and a draft of the signature they lack.

Lines are masked, cut into words and kept as templates in a tree of fixed depth (He et al., "Drain", ICWS 2017): the
number of words, then the first two. Of the templates found there the most similar one takes the line in, if at least
six in ten words agree, and the words that differ become wildcards; otherwise the line is a template of its own.

What comes first shapes a template, so another order can give another partition. It does not where lines differ only
in what masks take out, which is nearly all there is; within one `add_all` the order does not matter, and merging takes
the other's templates in a fixed order.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, Self

import msgspec

from analytics.logs.mask import MASK_VERSION, MASKED, mask
from models.records.outputs import Category

MOST_CLUSTERS: Final = 2000

_FORM: Final = 1
_LEADING_WORDS: Final = 2
_ALIKE_SHARE: Final = 0.6
_MOST_WORDS: Final = 40  # of a line
_MOST_PATTERN: Final = 400  # characters; a signature takes 1,000
_LETTERS: Final = 12  # a pattern with fewer would match anything

_SPECIAL: Final = frozenset(r"\.+*?()|[]{}^$")

_Words = tuple[str, ...]
_Leaf = tuple[int, _Words]


class Cluster(msgspec.Struct, kw_only=True):
    """Lines of one template. `name` is that of the first of them, for good."""

    name: str
    words: _Words
    count: int
    example: str

    @property
    def template(self) -> str:
        """The words, with wildcards where the lines differ."""
        return " ".join(self.words)

    @property
    def pattern(self) -> str:
        """RE2 that matches every line of the cluster. Empty where they have too little in common."""
        pattern = r"^\s*"
        for place, word in enumerate(self.words):
            piece = (r"\s+" if place else "") + ".+".join(map(_escaped, word.split(MASKED)))
            if len(pattern) + len(piece) > _MOST_PATTERN:
                break
            pattern += piece
        return pattern if sum(map(str.isalpha, self.template)) >= _LETTERS else ""


class _State(msgspec.Struct, array_like=True):
    form: int
    masks: int
    clusters: list[Cluster]


class Templates:
    """The clusters of the lines seen so far, at most MOST_CLUSTERS: the rarest go first."""

    def __init__(self, clusters: Iterable[Cluster] = ()) -> None:
        self._leaves = _tree(clusters)

    def add_all(self, lines: Iterable[str]) -> None:
        """Take lines in, in an order of their own."""
        self.add_counts(Counter(lines))

    def add_counts(self, counts: Mapping[str, int]) -> None:
        """As `add_all`, for lines that were counted."""
        for line in sorted(counts):
            self._add(_words(line), line, counts[line])
        self._forget()

    def merge(self, other: Templates) -> None:
        """Take in what `other` has seen."""
        for cluster in other.clusters():
            self._add(cluster.words, cluster.example, cluster.count)
        self._forget()

    def clusters(self) -> list[Cluster]:
        """All of them, the largest first."""
        return sorted((c for leaf in self._leaves.values() for c in leaf), key=lambda c: (-c.count, c.template))

    def nearest(self, line: str) -> tuple[Cluster, float] | None:
        """The cluster most like `line`, and which share of the words agrees."""
        words = _words(line)
        like = ((cluster, _likeness(cluster.words, words)) for cluster in self.clusters())
        best = max(like, key=lambda found: found[1], default=None)
        return best if best and best[1] > 0 else None

    def to_bytes(self) -> bytes:
        """The clusters as they are kept."""
        return msgspec.msgpack.encode(_State(_FORM, MASK_VERSION, self.clusters()))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self | None:
        """What `to_bytes` made; None where another version made it, or something else altogether."""
        try:
            state = msgspec.msgpack.decode(data, type=_State)
        except msgspec.DecodeError:
            return None
        return cls(state.clusters) if (state.form, state.masks) == (_FORM, MASK_VERSION) else None

    def _add(self, words: _Words, line: str, count: int) -> None:
        leaf = self._leaves.setdefault(_leaf(words), [])
        best = max(leaf, key=lambda cluster: _agreeing(cluster.words, words), default=None)
        if best is None or _agreeing(best.words, words) < _ALIKE_SHARE * len(words):
            leaf.append(Cluster(name=_name(words), words=words, count=count, example=line))
            return
        best.words = tuple(a if a == b else MASKED for a, b in zip(best.words, words, strict=True))
        best.count += count
        best.example = min(best.example, line)

    def _forget(self) -> None:
        clusters = self.clusters()
        if len(clusters) > MOST_CLUSTERS:
            self._leaves = _tree(clusters[:MOST_CLUSTERS])


def draft(cluster: Cluster, category: Category = Category.BUILD) -> str | None:
    """A signature for a cluster, in TOML: its name, pattern and example are made, its meaning is for a person to say.

    None for a cluster whose lines have too little in common.
    """
    if not cluster.pattern:
        return None
    lines = (
        f"[draft_{cluster.name}]",
        f'category = "{category}"  # a guess',
        f'cause = "Not known yet; seen {cluster.count} times."',
        'fix = "Look at one of these failures, then say here what is to be done."',
        f"text = [{_quoted(cluster.pattern)}]",
        f"matches = [{_quoted(cluster.example)}]",
        "confusers = []",
    )
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A TOML string, as it stands where that can be."""
    return json.dumps(text, ensure_ascii=False) if "'" in text or "\t" in text else f"'{text}'"


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in _SPECIAL else letter for letter in text)


def _tree(clusters: Iterable[Cluster]) -> dict[_Leaf, list[Cluster]]:
    leaves: dict[_Leaf, list[Cluster]] = {}
    for cluster in clusters:
        leaves.setdefault(_leaf(cluster.words), []).append(cluster)
    return leaves


def _words(line: str) -> _Words:
    words = mask(line.strip()).split()
    return tuple(words[:_MOST_WORDS] + [MASKED] * (len(words) > _MOST_WORDS))


def _leaf(words: _Words) -> _Leaf:
    """Where in the tree a line belongs: how many words, and which come first unless they vary."""
    return len(words), tuple(MASKED if MASKED in word else word for word in words[:_LEADING_WORDS])


def _agreeing(template: _Words, words: _Words) -> int:
    return sum(a == b for a, b in zip(template, words, strict=False))


def _likeness(template: _Words, words: _Words) -> float:
    return _agreeing(template, words) / max(len(template), len(words), 1)


def _name(words: _Words) -> str:
    return hashlib.blake2b(" ".join(words).encode(), digest_size=5).hexdigest()
