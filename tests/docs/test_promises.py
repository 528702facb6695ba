"""docs/promises.md names tests that exist, at least one for each promise."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "promises.md"


def named(text: str) -> list[str]:
    """The tests that `text` names, as path::name."""
    return [word for word in text.split("`") if word.startswith("tests/") and "::" in word]


def defined(path: Path) -> set[str]:
    """The names of the tests in a file."""
    tree = ast.parse(path.read_text("utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


@pytest.mark.parametrize("test", sorted(set(named(PAGE.read_text("utf-8")))))
def test_a_named_test_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert (ROOT / path).is_file()
    assert name in defined(ROOT / path)


def test_each_promise_names_a_test() -> None:
    _, *promises = PAGE.read_text("utf-8").split("\n## ")
    assert [promise[:2] for promise in promises] == [f"{number}." for number in range(1, 10)]
    assert all(named(promise) for promise in promises)
