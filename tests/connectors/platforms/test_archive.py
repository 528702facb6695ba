import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.platforms.archive import Member
from models.records.errors import MalformedPayload
from tests.connectors.platforms.logs import archive


def read(data: bytes, name: str, size: int = 1 << 20) -> tuple[bytes, bool]:
    member, text = Member(name), b""
    for at in range(0, len(data), size):
        text += b"".join(member.feed(data[at : at + size]))
        if member.ended:
            break
    return text, member.ended


@pytest.mark.parametrize(("streamed", "packed"), [(False, True), (False, False), (True, True)])
@pytest.mark.parametrize("size", [1, 7, 100, 1 << 20])
def test_each_member_is_found_however_the_archive_is_written_and_comes(
    streamed: bool, packed: bool, size: int, rng: random.Random
) -> None:
    texts = {f"job {n}": rng.randbytes(rng.randint(1, 2000)) for n in range(4)} | {"empty": b""}
    members = {f"{n}_{name}.txt": text for n, (name, text) in enumerate(texts.items())}
    steps = {f"job {n}/1_Set up job.txt": b"a step" for n in range(4)}
    data = archive({**steps, **members}, streamed=streamed, packed=packed)
    for name, text in texts.items():
        assert read(data, name, size) == (text, True)


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("test (3.12)", "3_test (3.12).txt"),
        ("call / build", "0_call _ build.txt"),
        ("call / build", "0_call  build.txt"),
        ("lint: *.py", "12_lint .py.txt"),
        ("x" * 200, f"1_{'x' * 90}.txt"),
    ],
)
def test_a_job_is_known_by_the_letters_and_digits_of_its_name(name: str, member: str) -> None:
    assert read(archive({member: b"text"}), name) == (b"text", True)


@pytest.mark.parametrize("member", ["build/1_build.txt", "build.txt", "1_build.txt/x", "x_build.txt", "1_builds.txt"])
def test_what_is_no_log_of_the_job_is_passed_over(member: str) -> None:
    assert read(archive({member: b"text"}), "build") == (b"", True)


def test_a_bomb_comes_in_small_pieces() -> None:
    member, most = Member("build"), 0
    for piece in member.feed(archive({"0_build.txt": bytes(50 << 20)})):
        most = max(most, len(piece))
    assert 0 < most <= 64 << 10


def _changed(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<html>" * 10, "no ZIP archive"),
        (_changed(archive({"0_build.txt": b"text" * 9}), 6, b"\x01\x00"), "encrypted"),
        (_changed(archive({"0_build.txt": b"text" * 9}), 8, b"\x0e\x00"), "encrypted, or packed"),
        (_changed(_changed(archive({"0_x.txt": b"t" * 9}, packed=False), 6, b"\x08\x00"), 18, bytes(4)), "where a mem"),
        (_changed(archive({"0_build.txt": b"text" * 90}), 41, b"\xff" * 8), "damaged"),
        (archive({"0_x.txt": b"text"}, streamed=True).replace(b"PK\x01\x02", b"PK\x09\x09"), "no header follows"),
    ],
    ids=["no archive", "encrypted", "LZMA", "stored, size unknown", "damaged", "no header after a member"],
)
def test_what_cannot_be_read_as_it_comes_is_malformed(data: bytes, words: str) -> None:
    with pytest.raises(MalformedPayload, match=words):
        read(data, "build")


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_are_text_or_malformed(data: bytes, size: int) -> None:
    for wrapped in (data, b"PK\x03\x04" + data, archive({"0_build.txt": b"x"})[:30] + data):
        try:
            read(wrapped, "build", size)
        except MalformedPayload:
            continue
