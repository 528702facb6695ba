"""Conversations about logs: whoever asks is a platform file, whoever answers is a test."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from connectors.platforms import PLATFORMS
from connectors.platforms.asking import Ending, Get, JobRun, Pause, Reply, Step

TEXT = b"npm ERR! code ERESOLVE\n"
AT = 1_775_040_000.0

JOBS = {
    "github": JobRun("acme/shop", "17001", "29001", 2, None, "test (3.12)"),
    "gitlab": JobRun("acme/tools/shop", "501", "9001", 1, None, "unit"),
    "jenkins": JobRun("acme/shop/feature%2Fx", "45", None, 1, None, "shop"),
    "circleci": JobRun("gh/acme/shop", "6f1c", "aa11", 1, 731, "test"),
}

Answering = Callable[[Step], Reply]


@dataclass(frozen=True)
class Talk:
    """A conversation: what was asked, how it ended, and the text that came, as the decoders made it."""

    asked: list[Step]
    ending: Ending
    text: bytes

    @property
    def paths(self) -> list[str]:
        """The paths that were asked for."""
        return [step.path for step in self.asked if isinstance(step, Get)]


def talk(platform: str, answering: Answering, job: JobRun | None = None, *, most: int = 100) -> Talk:
    """Let the file of `platform` ask, and `answering` answer, until it ends.

    The body of an answer to what should be text is run through the decoder that was named for it.
    """
    steps = PLATFORMS[platform].log(JOBS[platform] if job is None else job)
    asked: list[Step] = []
    text = b""
    try:
        step = next(steps)
        while True:
            asked.append(step)
            assert len(asked) <= most
            reply = answering(step)
            if isinstance(step, Get) and step.text is not None and 200 <= reply.status < 300:
                decoder = step.text()
                came = b"".join(piece for i in range(len(reply.body)) for piece in decoder.feed(reply.body[i : i + 1]))
                text += came
                reply = Reply(reply.status, reply.headers, reply.at, reply.redirected, b"", len(came))
            step = steps.send(reply)
    except StopIteration as ended:
        return Talk(asked, ended.value, text)


def reply(status: int = 200, body: bytes = b"", *, redirected: bool = False, **headers: str) -> Reply:
    """An answer; header names are written with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, named, AT, redirected, body)


def action(number: int, **changes: Any) -> dict[str, Any]:
    """One action of CircleCI's v1.1, which passed."""
    url = f"https://circle-production-action-output.s3.amazonaws.com/{number}?X-Amz-Signature=x"
    return {"index": 0, "step": number, "status": "success", "exit_code": 0, "output_url": url, **changes}


def build(*actions: dict[str, Any]) -> bytes:
    """A job as CircleCI's v1.1 shows it, one action a step."""
    return json.dumps({"build_num": 731, "steps": [{"name": "x", "actions": [one]} for one in actions]}).encode()


def messages(*texts: str) -> bytes:
    """A step's output as CircleCI keeps it."""
    return json.dumps([{"type": "out", "time": "2026-11-26T03:50:01Z", "message": text} for text in texts]).encode()


def archive(members: Mapping[str, bytes], *, streamed: bool = False, packed: bool = True) -> bytes:
    """A ZIP archive, as one writes it to a file, or to a pipe that cannot go back."""
    file = io.BytesIO()
    target: Any = _Pipe(file) if streamed else file
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as made:
        for name, text in members.items():
            made.writestr(name, text)
    return file.getvalue()


class _Pipe(io.RawIOBase):
    def __init__(self, file: io.BytesIO) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)


def all_well(step: Step) -> Reply:
    """What a platform answers when the log is there."""
    if isinstance(step, Pause):
        return Reply(0, {})
    if step.path.startswith("/api/v1.1/"):
        return reply(200, build(action(1), action(2, status="failed", exit_code=1)))
    if step.elsewhere:
        return reply(200, messages(TEXT.decode()))
    return reply(200, TEXT, x_text_size=str(len(TEXT)))
