"""Logs from files or standard input, explained without any server: the same analysis that a log reader makes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from analytics.account import account
from analytics.logs.analyse import Analysis
from analytics.logs.passing import PassingIndex, PassingIndexing
from analytics.signatures.catalogue import Catalogue, Signature, shipped
from connectors.redaction import Redactor
from flows import rulebooks
from flows.log_account import LogAccount, Near, nowhere, told
from flows.recorded import opened
from models.records.errors import ConfigError
from models.records.evidence import Evidence, Reading

STDIN: Final = "-"
_CHUNK_BYTES: Final = 1 << 20
_SOME_PLATFORM: Final = "any"


def catalogue_of(files: Sequence[Path], platform: str | None) -> Catalogue:
    """The shipped signatures and those of `files`, which replace others of their name.

    Where the platform is not known no signature is kept out for being another one's.

    Raises:
        ConfigError: naming file, entry and reason.
    """
    own = [signature for path in files for signature in rulebooks.own(path)]
    chosen = {signature.name: signature for signature in (*shipped(), *own)}
    return Catalogue(map(_anywhere, chosen.values()) if platform is None else chosen.values())


def _anywhere(signature: Signature) -> Signature:
    return msgspec.structs.replace(signature, platforms=()) if signature.platforms else signature


def passing_index(path: Path) -> PassingIndex:
    """The index of a passing log.

    Raises:
        ConfigError: it cannot be read.
    """
    indexing = PassingIndexing()
    with opened(str(path)) as stream:
        for chunk in _chunks(str(path), stream):
            indexing.feed(chunk)
    return indexing.finish()


class LogExplainer:
    """Explains logs, one after the other, in memory that does not grow with them."""

    def __init__(
        self,
        catalogue: Catalogue,
        redactor: Redactor,
        *,
        passing: PassingIndex | None = None,
        platform: str | None = None,
        near: Near = nowhere,
    ) -> None:
        """`passing` is of the last passing log of the job; `near` finds clusters of unknown failures."""
        self._catalogue = catalogue
        self._platform = platform or _SOME_PLATFORM
        self._analysis = partial(Analysis, find=catalogue.find, redact=redactor.redact, passing=passing)
        self._near = near

    def explain(self, file: str) -> LogAccount:
        """What the log in `file` says; - is standard input.

        Raises:
            ConfigError: it cannot be read.
        """
        analysis = self._analysis()
        with opened(file) as stream:
            for chunk in _chunks(file, stream):
                analysis.feed(chunk)
        evidence = Evidence(
            event_id="",
            instance="",
            repository="",
            pipeline_id="",
            job_id="",
            attempt=1,
            reading=Reading.READ,
            **analysis.finish(),
        )
        code = evidence.exit_code
        facts = () if code is None else (f"{self._platform} exit_code {code}",)
        found = account(self._catalogue, self._platform, facts, evidence)
        return told(found, evidence, log="standard input" if file == STDIN else file, near=self._near)


def _chunks(file: str, stream: BinaryIO) -> Iterator[bytes]:
    try:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
