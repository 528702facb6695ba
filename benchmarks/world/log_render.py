"""What jobs write, as each platform keeps and gives it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import Any

import msgspec

from benchmarks.world.log_text import Section, sections
from benchmarks.world.records import Attempt, Clock, Ending, JobRun


def github(attempt: Attempt, job: JobRun, clock: Clock) -> bytes:
    """Lines with a time of seven digits, steps in groups, errors marked."""
    lines: list[str] = []
    for section in sections(attempt, job):
        lines += [f"##[group]{section.step.name}", *section.lines, "##[endgroup]"]
        if section.exit_code:
            lines.append(f"##[error]Process completed with exit code {section.exit_code}.")
    share = ((job.finished_at or job.started_at) - job.started_at) / max(len(lines), 1)
    times = (clock.iso_ms(job.started_at + share * i).removesuffix("Z") for i in range(len(lines)))
    return "".join(f"{at}0417Z {line}\n" for at, line in zip(times, lines, strict=True)).encode()


def github_archive(attempt: Attempt, clock: Clock) -> bytes:
    """All logs of an attempt, as members of a ZIP archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, job in enumerate(attempt.jobs):
            archive.writestr(f"{i}_{job.job.name}.txt", github(attempt, job, clock))
    return file.getvalue()


def gitlab(attempt: Attempt, job: JobRun, clock: Clock) -> bytes:
    """Sections that fold, colours, and carriage returns."""
    at = int(clock.seconds(job.started_at))
    parts = [f"Running with gitlab-runner 18.5.0 ({job.uid[:8]})\n  on shared-runners-manager\n"]
    failed: int | None = 0
    for i, section in enumerate(sections(attempt, job)):
        name = f"step_{i}"
        parts.append(f"section_start:{at}:{name}\r\x1b[0K\x1b[0K\x1b[36;1m{section.step.name}\x1b[0;m\n")
        parts += [f"{line}\n" for line in section.lines]
        parts.append(f"section_end:{at}:{name}\r\x1b[0K")
        failed = section.exit_code
    ended = "Job succeeded" if failed == 0 else f"\x1b[31;1mERROR: Job failed: exit code {failed or 1}\x1b[0;m"
    return "".join([*parts, ended, "\n"]).encode()


def jenkins(attempt: Attempt, job: JobRun) -> bytes:
    """The console of a Pipeline."""
    lines = [f"Started by user {attempt.actor.name}", "[Pipeline] Start of Pipeline", "[Pipeline] node"]
    for section in sections(attempt, job):
        lines += ["[Pipeline] stage", f"[Pipeline] {{ ({section.step.name})", "[Pipeline] sh", *section.lines]
        if section.exit_code:
            lines.append(f"ERROR: script returned exit code {section.exit_code}")
        lines += ["[Pipeline] }", "[Pipeline] // stage"]
    ended = {Ending.PASSED: "SUCCESS", Ending.CANCELLED: "ABORTED"}.get(job.ending or Ending.FAILED, "FAILURE")
    return "\n".join([*lines, "[Pipeline] End of Pipeline", f"Finished: {ended}", ""]).encode()


def circleci(attempt: Attempt, job: JobRun, place: str) -> tuple[bytes, dict[int, bytes]]:
    """The steps of a job, whose outputs stand at `place`, and those outputs by number."""
    steps: list[dict[str, Any]] = []
    outputs: dict[int, bytes] = {}
    for i, section in enumerate(sections(attempt, job)):
        code = section.exit_code
        action = {
            "name": section.step.name,
            "index": 0,
            "step": i,
            "status": "success" if code == 0 else "infrastructure_fail" if code is None else "failed",
            "exit_code": code,
            "failed": None if code == 0 else True,
            "has_output": True,
            "output_url": f"{place}/{i}",
        }
        steps.append({"name": section.step.name, "actions": [action]})
        outputs[i] = msgspec.json.encode(list(_messages(section)))
    return msgspec.json.encode({"status": "failed", "build_num": job.number % 10**7, "steps": steps}), outputs


def _messages(section: Section) -> Iterator[dict[str, str]]:
    text = "\r\n".join([*section.lines, ""])
    yield {"message": text, "time": "2026-11-26T03:50:01.123Z", "type": "out"}
    if section.exit_code:
        ended = f"\r\nExited with code exit status {section.exit_code}\r\n"
        yield {"message": ended, "time": "2026-11-26T03:50:02.123Z", "type": "err"}
