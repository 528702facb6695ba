"""What jobs write here: the words of real tools, from the seed of the job, with the trouble where its step is struck.

The same job writes nearly the same every time; durations, hashes and the like differ. So a failed log can be held
against a passing one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final, NamedTuple

from benchmarks.world.records import Attempt, Ending, JobRun, Role, Step, Trouble

_PACKAGES: Final = ("attrs", "click", "idna", "numpy", "pluggy", "requests", "rich", "urllib3", "wheel", "zipp")
_UNITS: Final = (
    "billing",
    "catalog",
    "customers",
    "delivery",
    "invoices",
    "orders",
    "queue",
    "router",
    "stock",
    "users",
)
_EXIT_CODES: Final = {"out_of_memory": 137, "lint": 2, "compile_error": 2}

# One line for each unit or package; {n} is its number, {x} its name, {ms} and {hex} differ from run to run.
_MANY: Final[dict[tuple[str, Role], tuple[str, ...]]] = {
    ("python", "deps"): ("Collecting {x}=={n}.4.1", "  Downloading {x}-{n}.4.1-py3-none-any.whl ({n}{n} kB)"),
    ("python", "lint"): ("checked src/{x}.py",),
    ("python", "test"): ("tests/test_{x}.py::test_create PASSED", "tests/test_{x}.py::test_{x}_total PASSED"),
    ("python", "build"): ("adding 'shop/{x}.py'", "copying src/shop/{x}.py -> build/lib/shop"),
    ("javascript", "deps"): ("npm http fetch GET 200 https://registry.example.com/{x} {ms}ms (cache miss)",),
    ("javascript", "lint"): ("src/{x}/index.ts {ms}ms (unchanged)",),
    ("javascript", "test"): ("PASS src/{x}/{x}.test.ts ({ms} ms)", "  ✓ {x} renders ({ms} ms)"),
    ("javascript", "build"): ("dist/assets/{x}-{hex}.js   {n}.71 kB │ gzip: {n}.02 kB",),
    ("go", "deps"): ("go: downloading example.com/{x} v1.{n}.0",),
    ("go", "lint"): ('level=info msg="[linters_context] checked {x}"',),
    ("go", "test"): ("=== RUN   Test{x}", "--- PASS: Test{x} (0.{n}s)", "ok  \texample.com/shop/{x}\t0.{ms}s"),
    ("go", "build"): ("example.com/shop/internal/{x}",),
    ("java", "deps"): (
        "[INFO] Downloaded from central: https://repo.example.com/maven2/{x}/1.{n}/{x}-1.{n}.jar ({ms} kB)",
    ),
    ("java", "lint"): ("[INFO] Checking {x}/src/main/java",),
    ("java", "test"): (
        "[INFO] Running shop.{x}Test",
        "[INFO] Tests run: 12, Failures: 0, Errors: 0, Time elapsed: 0.{ms} s",
    ),
    ("java", "build"): ("[INFO] Compiling {n} source files to target/classes/{x}",),
}
_ONCE: Final[dict[Role, tuple[str, ...]]] = {
    "setup": ("Runner version: 2.{n}.1", "Operating System: Debian 12", "Image: build-{hex}", "Ready in {ms} ms"),
    "checkout": (
        "Initialized empty Git repository in /work/.git/",
        "remote: Enumerating objects: {ms}, done.",
        "remote: Counting objects: 100% ({ms}/{ms}), done.",
        "HEAD is now at {hex} {message}",
    ),
    "image": (
        "#1 [internal] load build definition from Dockerfile",
        "#4 [1/6] FROM docker.io/library/debian:12@sha256:{hex}{hex}",
        "#5 [2/6] RUN apt-get update",
        "#5 1.{ms} Get:1 http://deb.example.com/debian bookworm InRelease [151 kB]",
        "#7 [4/6] COPY . /app",
        "#9 exporting to image",
        "#9 writing image sha256:{hex}{hex} done",
    ),
    "deploy": ("Using context production", "deployment.apps/shop configured", "Waiting for rollout: {n} of 9 updated"),
    "end": ("Cleaning up",),
}


class Section(NamedTuple):
    """What one step wrote, and the status it ended with; None where it never ended."""

    step: Step
    lines: tuple[str, ...]
    exit_code: int | None


def sections(attempt: Attempt, job: JobRun) -> Iterator[Section]:
    """What `job` wrote, step by step, up to the one that ended it."""
    steady, fresh = random.Random(f"text {job.job.name}"), random.Random(f"text {job.uid}")
    language = attempt.run.repository.language
    for step in job.job.steps:
        lines = list(_lines(step, language, attempt.run.commit.message, steady, fresh))
        struck = job.trouble is not None and step.role == job.trouble.role
        if struck and job.trouble is not None:
            lines = [*lines[: fresh.randint(len(lines) // 2, len(lines))], *job.trouble.log]
        yield Section(step, tuple(lines), _exit_code(job.trouble) if struck else 0)
        if struck:
            return
    if job.ending is Ending.CANCELLED:
        yield Section(job.job.steps[-1], ("The operation was canceled.",), None)


def _exit_code(trouble: Trouble | None) -> int | None:
    if trouble is None or trouble.lost:
        return None
    return _EXIT_CODES.get(trouble.name, 1)


def _lines(step: Step, language: str, message: str, steady: random.Random, fresh: random.Random) -> Iterator[str]:
    yield f"$ {step.name.removeprefix('Run ')}"
    for line in _ONCE.get(step.role, ()):
        yield _filled(line, "", steady, fresh, message)
    names = _PACKAGES if step.role == "deps" else _UNITS
    for name in names * 3 if step.role == "test" else names:
        for line in _MANY.get((language, step.role), ()):
            yield _filled(line, name, steady, fresh, message)


def _filled(line: str, name: str, steady: random.Random, fresh: random.Random, message: str) -> str:
    drawn = f"{fresh.getrandbits(48):012x}"
    return line.format(x=name, n=steady.randint(1, 9), ms=fresh.randint(10, 999), hex=drawn, message=message)
