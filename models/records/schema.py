"""The event's JSON Schema, for those who publish events themselves; `make proto` writes it to event.v1.schema.json."""

from __future__ import annotations

from typing import Final

import msgspec

from models.records.event import Event

_TITLE: Final = "An event of Pipeline Guard. Keys may be added, never renamed or dropped; unknown keys are passed over."


def json_schema() -> bytes:
    """JSON Schema 2020-12 of the event as it is written, indented."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": _TITLE,
        **msgspec.json.schema(Event),
    }
    return msgspec.json.format(msgspec.json.encode(schema)) + b"\n"


if __name__ == "__main__":
    print(json_schema().decode(), end="")  # noqa: T201 - its output is the file
