"""What shards and the fleet said as Arrow tables, with the columns that PostgreSQL has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Final, get_args, get_type_hints

import pyarrow as pa

from models.records.outputs import (
    ActOutcome,
    DeadLetter,
    DecisionRow,
    DetectorFault,
    DiagnosisRow,
    Failure,
    FindingRow,
    IncidentRow,
)

TIMES: Final[Mapping[str, str]] = {
    "occurred_ms": "occurred_at",
    "received_ms": "received_at",
    "first_ms": "first_at",
    "last_ms": "last_at",
    "at_ms": "at",
    "minute_ms": "minute",
    "hour_ms": "hour",
    "not_before_ms": "not_before",
    "began_ms": "began_at",
    "asked_ms": "asked_at",
    "ended_ms": "ended_at",
}
"""Fields that hold Unix milliseconds, and the columns of times that they become."""

RECORDS: Final[Mapping[str, type[Any]]] = {
    "failures": Failure,
    "diagnoses": DiagnosisRow,
    "findings": FindingRow,
    "decisions": DecisionRow,
    "incidents": IncidentRow,
    "act_outcomes": ActOutcome,
    "dead_letters": DeadLetter,
    "detector_faults": DetectorFault,
}
"""The tables of a backtest. Aggregates are left out: they are sums of the events that the backtest was given."""

_TYPES: Final[Mapping[Any, pa.DataType]] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
    list[str]: pa.list_(pa.string()),
    list[int]: pa.list_(pa.int64()),
}


def _field(name: str, hint: Any) -> pa.Field:  # noqa: ANN401 - a type, a union or a generic alias
    plain = next((part for part in get_args(hint) if part is not NoneType), hint) if _optional(hint) else hint
    kind = pa.timestamp("ms", "UTC") if name in TIMES else _TYPES[plain]
    return pa.field(TIMES.get(name, name), kind, nullable=_optional(hint))


def _optional(hint: Any) -> bool:  # noqa: ANN401 - as above
    return NoneType in get_args(hint)


SCHEMAS: Final[Mapping[str, pa.Schema]] = {
    name: pa.schema([_field(*field) for field in get_type_hints(record).items()]) for name, record in RECORDS.items()
}
"""The schema of each table."""


KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    name: tuple(field for field in (schema.names[0], "revision") if field in schema.names)
    for name, schema in SCHEMAS.items()
}
"""What makes a row of each table the one it is. The first with a key is final: another is the same, said again."""


def table(name: str, rows: Sequence[Any]) -> pa.Table:
    """`rows`, records of the table `name`, by column."""
    schema = SCHEMAS[name]
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)
