"""One member of a ZIP archive, read while the archive comes: its directory stands at the end and is not waited for.

    local header (30 bytes, name, extra) | data | descriptor, where the header did not know the sizes | next header ...

https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from connectors.inflating import RAW, inflated
from models.records.errors import MalformedPayload

_HEADER: Final = struct.Struct("<4sHHHHHIIIHH")
_LOCAL: Final = b"PK\x03\x04"
_DIRECTORY: Final = (b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06")
_DESCRIPTORS: Final = (12, 16, 20, 24)  # with or without a signature of its own, sizes of four bytes or of eight
_DESCRIPTOR_AND_NEXT: Final = 24 + 4
_ENCRYPTED, _DESCRIBED = 0x1, 0x8
_STORED, _DEFLATED = 0, 8
_UNKNOWN_BYTES: Final = 0xFFFFFFFF
_MOST_COMPARED: Final = 60  # long names are cut, and not everywhere at the same place


class Member:
    """The text of the log of one job, out of the archive of a run's logs, where it is called `3_name of the job.txt`.

    What a file may not be called is left out of a name there, so only letters and digits are compared.
    """

    def __init__(self, job_name: str) -> None:
        self.ended = False
        self._wanted = _plain(job_name)
        self._held = b""
        self._stream: zlib._Decompress | None = None  # of the member that is being read, where it is deflated
        self._stored_bytes = 0  # of it that are still to come, where it is not
        self._inside = False  # whether it is the wanted one
        self._described = False  # whether a descriptor comes before the next header

    def feed(self, chunk: bytes) -> Iterable[bytes]:
        """The text that `chunk` holds of the member.

        Raises:
            MalformedPayload: no archive, or one that can only be read with its directory.
        """
        self._held += chunk
        try:
            while not self.ended:
                before = len(self._held)
                yield from self._step()
                if len(self._held) == before:
                    return
        except zlib.error:
            raise MalformedPayload("the archive is damaged") from None
        self._held = b""

    def _step(self) -> Iterator[bytes]:
        """Use up some of what is held, if there is enough of it."""
        if self._stream is not None:
            yield from self._inflated(self._stream)
        elif self._stored_bytes:
            some, self._held = self._held[: self._stored_bytes], self._held[self._stored_bytes :]
            self._stored_bytes -= len(some)
            if self._inside:
                yield some
                self.ended = not self._stored_bytes
        elif self._described:
            self._skip_descriptor()
        else:
            self._begin()

    def _inflated(self, stream: zlib._Decompress) -> Iterator[bytes]:
        data, self._held = self._held, b""
        for piece in inflated(stream, data):
            if self._inside:
                yield piece
        if stream.eof:
            self._held, self._stream = stream.unused_data, None
            self.ended = self._inside

    def _skip_descriptor(self) -> None:
        if len(self._held) < _DESCRIPTOR_AND_NEXT:
            return
        for size in _DESCRIPTORS:
            if self._held[size : size + 4] in (_LOCAL, *_DIRECTORY):
                self._held, self._described = self._held[size:], False
                return
        raise MalformedPayload("the archive is damaged: no header follows a member")

    def _begin(self) -> None:
        """Read the next header, once all of it is there."""
        if self._held[:4] in _DIRECTORY:
            self.ended = True
            return
        if len(self._held) < _HEADER.size:
            return
        mark, _, flags, method, _, _, _, packed_bytes, _, name_bytes, extra_bytes = _HEADER.unpack_from(self._held)
        if mark != _LOCAL:
            raise MalformedPayload("no ZIP archive")
        data_at = _HEADER.size + name_bytes + extra_bytes
        if len(self._held) < data_at:
            return
        name = self._held[_HEADER.size : _HEADER.size + name_bytes]
        described = bool(flags & _DESCRIBED)
        if flags & _ENCRYPTED or method not in (_STORED, _DEFLATED):
            raise MalformedPayload("a member of the archive is encrypted, or packed in a way that we do not read")
        if method == _STORED and ((described and packed_bytes == 0) or packed_bytes == _UNKNOWN_BYTES):
            raise MalformedPayload("the archive does not say where a member ends")
        self._held, self._described, self._inside = self._held[data_at:], described, self._is_wanted(name)
        self._stored_bytes = packed_bytes if method == _STORED else 0
        self._stream = zlib.decompressobj(RAW) if method == _DEFLATED else None
        self.ended = self._inside and method == _STORED and not packed_bytes

    def _is_wanted(self, name: bytes) -> bool:
        text = name.decode("utf-8", "replace")
        before, _, after = text.partition("_")
        return "/" not in text and before.isdigit() and _plain(after.removesuffix(".txt")) == self._wanted


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name))[:_MOST_COMPARED]
