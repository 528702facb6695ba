"""The event's three other definitions say what models/records/event.py says."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from enum import EnumType
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own
import msgspec
import pyarrow as pa
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from hypothesis import given

from models.records import columns, event_pb2, payload
from models.records.event import Event, FailureContext, Metadata, Outcome
from models.records.schema import json_schema
from tests.events import events, make_event

RECORDS = Path(columns.__file__).parent
ROOT = RECORDS.parent.parent
SCHEMA = RECORDS / "event.v1.schema.json"
MESSAGES = {"Event": Event, "Metadata": Metadata, "FailureContext": FailureContext}

NUMBERS = {
    "Event": "id timestamp platform event_type repository pipeline_id job_id metadata failure_context",
    "Metadata": "instance outcome commit_sha branch author logs_url artifacts_url url workflow workflow_id job_name "
    "job_number attempt vendor_status stage step runner runner_labels trigger environment is_default_branch is_fork "
    "is_deploy allow_failure native_retries rerun_after queued_ms duration_ms",
    "FailureContext": "exit_code error_patterns duration_ms reason excerpt tests_failed",
    "EventBatch": "events",
}
"""Every field that was ever released, in order of its number from 1. A name is only ever added at an end."""


def _descriptor(name: str) -> Descriptor:
    return event_pb2.DESCRIPTOR.message_types_by_name[name]


@pytest.mark.parametrize("message", NUMBERS)
def test_field_numbers_are_for_ever(message: str) -> None:
    assert {f.number: f.name for f in _descriptor(message).fields} == dict(enumerate(NUMBERS[message].split(), 1))


def test_there_are_no_other_messages() -> None:
    assert set(event_pb2.DESCRIPTOR.message_types_by_name) == set(NUMBERS)
    assert event_pb2.DESCRIPTOR.package == "guard.v1"


def _kind(hint: Any) -> tuple[int, bool, bool]:
    """Type, repeated and optional of the Protocol Buffers field that `hint` wants."""
    options = [a for a in get_args(hint) if a is not NoneType] if NoneType in get_args(hint) else [hint]
    wanted = options[0]
    kinds: dict[Any, int] = {
        str: FieldDescriptor.TYPE_STRING,
        int: FieldDescriptor.TYPE_INT64,
        datetime: FieldDescriptor.TYPE_INT64,
        bool: FieldDescriptor.TYPE_BOOL,
    }
    if get_origin(wanted) is list:
        return FieldDescriptor.TYPE_STRING, True, False
    if get_origin(wanted) is Literal or isinstance(wanted, EnumType):
        return FieldDescriptor.TYPE_STRING, False, wanted is not hint
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        return FieldDescriptor.TYPE_MESSAGE, False, True
    return kinds[wanted], False, wanted is not hint


@pytest.mark.parametrize("message", MESSAGES)
def test_every_field_of_the_event_has_its_protocol_buffers_type(message: str) -> None:
    hints = get_type_hints(MESSAGES[message])
    made = {f.name: (f.type, f.is_repeated, f.has_presence) for f in _descriptor(message).fields}
    wanted = {name: _kind(hint) for name, hint in hints.items()}
    if message == "Metadata":
        wanted["attempt"] = (FieldDescriptor.TYPE_INT64, False, True)  # absent is 1, never 0
    assert made == wanted


def test_event_pb2_is_what_the_proto_file_says(tmp_path: Path) -> None:
    made = tmp_path / "made.pb"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--descriptor_set_out={made}"]
    subprocess.run([*command, "models/records/event.proto"], cwd=ROOT, check=True, timeout=60)
    written = FileDescriptorProto()
    event_pb2.DESCRIPTOR.CopyToProto(written)
    (read,) = FileDescriptorSet.FromString(made.read_bytes()).file
    for file in (read, written):
        file.ClearField("source_code_info")
        for message in file.message_type:
            for field in message.field:
                field.ClearField("json_name")
    assert read == written


def test_the_json_schema_is_current() -> None:
    assert SCHEMA.read_bytes() == json_schema(), "run `make proto`"


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = msgspec.json.decode(SCHEMA.read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_any_legal_event_is_valid_by_the_json_schema(validator: jsonschema.Draft202012Validator) -> None:
    @given(events())
    def holds(event: Event) -> None:
        validator.validate(msgspec.json.decode(payload.to_json(event)))

    holds()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("platform",), "travis"),
        (("event_type",), "pipeline.x"),
        (("id",), None),
        (("timestamp",), 5),
        (("metadata", "instance"), None),
        (("metadata", "outcome"), "exploded"),
        (("metadata", "runner_labels"), [1]),
        (("metadata", "attempt"), "1"),
    ],
)
def test_what_is_no_event_is_not_valid(
    validator: jsonschema.Draft202012Validator, path: tuple[str, ...], value: object
) -> None:
    told = msgspec.json.decode(payload.to_json(make_event(Outcome.FAILED, 1000)))
    assert validator.is_valid(told)
    place = told
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    assert not validator.is_valid(told)
    with_missing = {k: v for k, v in told.items() if k != "metadata"}
    assert not validator.is_valid(with_missing)


def test_the_columns_are_the_event_flat() -> None:
    own = [name for name in Event.__struct_fields__ if name not in {"metadata", "failure_context"}]
    told = [f"failure_{name}" for name in FailureContext.__struct_fields__]
    assert columns.EVENT_SCHEMA.names == [*own, *Metadata.__struct_fields__, *told, "has_failure"]
    assert columns.BATCH_SCHEMA.names == [*columns.ENTRY_SCHEMA.names, *columns.EVENT_SCHEMA.names]
    types = {columns.EVENT_SCHEMA.field(name).type for name in columns.EVENT_SCHEMA.names}
    assert types == {pa.string(), pa.int64(), pa.bool_(), pa.list_(pa.string()), pa.timestamp("us", "UTC")}
