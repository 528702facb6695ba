"""The collector takes cycles that are young, and leaves what stays alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_RUN = """
import gc, weakref
from flows.garbage import look_once

class Node:
    pass

def cycle():
    node = Node()
    node.me = node
    return weakref.ref(node)

look_once()
frozen = gc.get_freeze_count()
gone = cycle()
kept = [[i] for i in range(100_000)]
assert gone() is None
assert gc.get_freeze_count() > frozen + 80_000
assert sum(map(len, map(gc.get_objects, range(3)))) < 20_000
"""


def test_it_looks_at_each_object_once() -> None:
    subprocess.run([sys.executable, "-c", _RUN], cwd=ROOT, check=True)
