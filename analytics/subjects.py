"""What a key is about, in words: the keys of histories and profiles, and their parts by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from analytics.detectors.detector import JOB_RUN, Rule
from analytics.rows import SEPARATOR, split_job_run


def subject_of(rule: Rule, key: str) -> tuple[str, str, str]:
    """Instance, repository and the parts of a key by name as JSON."""
    told: Sequence[Any] = split_job_run(key) if rule.by == JOB_RUN else key.split(SEPARATOR, len(rule.by))
    instance, repository, *rest = told
    parts: dict[str, Any] = {"repository": repository}
    parts |= {name: part if part != "" else None for name, part in zip(rule.by[1:], rest, strict=True)}
    return instance, repository, msgspec.json.encode(parts).decode()
