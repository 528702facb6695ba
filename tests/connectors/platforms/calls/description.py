"""Requests, held against an OpenAPI description."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own

HERE = Path(__file__).resolve().parents[4]


WHERE = Path(os.environ.get("GUARD_OPENAPI", HERE.parent / "shared" / "openapi"))
"""Where the official descriptions are, which are no part of this project."""


class Description:
    """An OpenAPI 3.0 description, as far as requests go."""

    def __init__(self, path: Path) -> None:
        self._whole = json.loads(path.read_text())
        self._routes = [
            (template.strip("/").split("/"), method.upper(), self._resolved(operation))
            for template, methods in self._whole["paths"].items()
            for method, operation in methods.items()
            if method in {"get", "put", "post", "patch", "delete"}
        ]

    def knows(self, method: str, path: str) -> bool:
        """Whether there is such an operation."""
        return self._find(method, urlsplit(path).path) is not None

    def faults(self, method: str, path: str, body: bytes) -> list[str]:
        """What is wrong with a request; nothing if it is as described."""
        parts = urlsplit(path)
        found = self._find(method, parts.path)
        if found is None:
            return [f"{method} {parts.path}: not described"]
        operation, values = found
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        known = {(one["in"], one["name"]): one for one in operation.get("parameters", [])}
        faults = [f"{name}: no such parameter" for name in given if ("query", name) not in known]
        faults += [
            f"{name}: missing"
            for (where, name), one in known.items()
            if where == "query" and one.get("required") and name not in given
        ]
        for (where, name), one in known.items():
            source = values if where == "path" else given
            if name in source:
                faults += self._mismatch(name, _typed(source[name], one["schema"]), one["schema"])
        return faults + self._body(operation.get("requestBody"), body)

    def answer_faults(self, method: str, path: str, status: int, body: bytes) -> list[str]:
        """What is wrong with an answer; nothing if it is as described."""
        found = self._find(method, urlsplit(path).path)
        described = found[0]["responses"].get(str(status)) if found is not None else None
        if described is None:
            return [f"{status}: not described"]
        content = self._pointed(described).get("content", {})
        if "application/json" not in content:
            return []
        return self._mismatch("body", json.loads(body), content["application/json"]["schema"])

    def _body(self, described: Any, body: bytes) -> list[str]:
        if not body:
            return ["a body is missing"] if described and described.get("required") else []
        if not described:
            return ["no body is described"]
        return self._mismatch("body", json.loads(body), described["content"]["application/json"]["schema"])

    def _mismatch(self, name: str, value: Any, schema: Any) -> list[str]:
        whole = {**_nullable(schema), "components": _nullable(self._whole.get("components", {}))}
        errors = jsonschema.Draft7Validator(whole).iter_errors(value)
        return [f"{name}: {error.message}" for error in errors]

    def _find(self, method: str, path: str) -> tuple[Any, dict[str, str]] | None:
        parts = [unquote(part) for part in path.strip("/").split("/")]
        for template, verb, operation in self._routes:
            if verb != method or len(template) != len(parts):
                continue
            pairs = list(zip(template, parts, strict=True))
            if all(name.startswith("{") or name == value for name, value in pairs):
                return operation, {name.strip("{}"): value for name, value in pairs if name.startswith("{")}
        return None

    def _resolved(self, operation: Any) -> Any:
        named = [self._pointed(one) for one in operation.get("parameters", [])]
        return {**operation, "parameters": named}

    def _pointed(self, thing: Any) -> Any:
        while "$ref" in thing:
            target = self._whole
            for part in thing["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            thing = target
        return thing


def _typed(text: str, schema: Any) -> Any:
    match schema.get("type"):
        case "integer":
            return int(text) if text.isdigit() else text
        case "boolean":
            return {"true": True, "false": False}.get(text, text)
    return text


def _nullable(schema: Any) -> Any:
    """`schema` with OpenAPI 3.0's `nullable` as JSON Schema has it."""
    if isinstance(schema, list):
        return [_nullable(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: _nullable(value) for key, value in schema.items() if key != "nullable"}
    if schema.get("nullable") is True and isinstance(schema.get("type"), str):
        inner["type"] = [schema["type"], "null"]
    return inner


@cache
def github() -> Description | None:
    """GitHub's official description of what we use, if it is here."""
    path = WHERE / "github-healing.openapi.json"
    return Description(path) if path.is_file() else None
