"""The kinds of value that a setting has, and how each is read and shown. No message repeats one: it may be secret."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from models.records.duration import duration

FILE_MARK: Final = "file:"
MASK: Final = "***"
_SHOWN_IN_QUERY: Final = frozenset({"db", "dbname", "host", "hostaddr", "port", "sslmode", "user"})


class VariableText(str):
    """The text of an environment variable: where a list or table belongs, it is read as JSON."""

    __slots__ = ()


class ServerUrl(SecretStr):
    """The address of a server and what opens it. It is shown without its password."""

    def _display(self) -> str:
        parts = _split(self.get_secret_value())
        if parts is None:
            return MASK
        login, at, host = parts.netloc.rpartition("@")
        user, colon, _ = login.partition(":")
        shown = [(k, v if k in _SHOWN_IN_QUERY else MASK) for k, v in parse_qsl(parts.query, keep_blank_values=True)]
        query = urlencode(shown, safe="*/")
        masked = f"{user}{colon}{MASK if colon else ''}{at}{host}"
        return f"{parts.scheme}://{masked}{parts.path}{'?' if query else ''}{query}"


def _split(url: str) -> SplitResult | None:
    """The parts of `url`, or None where a stray @ / ? or # leaves open which part is the password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    stray = "@" in parts.path + parts.query + parts.fragment or parts.netloc.count("@") > 1
    return None if stray or parts.fragment else parts


def _has_port(parts: SplitResult) -> bool:
    """Whether the port is one, or not given."""
    try:
        return parts.port is None or parts.port >= 0
    except ValueError:
        return False


def _address(*schemes: str) -> AfterValidator:
    """Accept addresses of these schemes, with what each needs."""

    def check(url: ServerUrl) -> ServerUrl:
        text = url.get_secret_value()
        if not text.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError(f"expected an address that begins with {' or '.join(f'{s}://' for s in schemes)}")
        parts = _split(text)
        if parts is None:
            raise ValueError("the characters / ? # @ within a user name or password are written %2F %3F %23 %40")
        if parts.scheme == "unix" and not parts.path:
            raise ValueError("expected the path of a socket")
        if parts.scheme in {"redis", "rediss"}:
            database = parts.path.removeprefix("/")
            if not _has_port(parts):
                raise ValueError("expected a port from 0 to 65535")
            if not parts.hostname or (database and not database.isdecimal()):
                raise ValueError("expected a host and, after it, nothing or / and the number of a database")
        return url

    return AfterValidator(check)


def _from_file(value: object) -> object:
    """A secret, read from its file if it names one."""
    if not isinstance(value, str) or not value.startswith(FILE_MARK):
        return value
    path = Path(value.removeprefix(FILE_MARK))
    if not path.is_absolute():
        raise ValueError(f"{FILE_MARK} is followed by an absolute path")
    try:
        return path.read_text("utf-8").rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None


def _from_json(value: object) -> object:
    """A list or table as a variable gives it."""
    if not isinstance(value, VariableText):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("expected JSON in a variable") from None


def _plain(value: object) -> object:
    """A value whose type only its reader knows: a variable's text is JSON if it can be, else text."""
    try:
        return _from_json(value)
    except ValueError:
        return str(value)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    return path


def _at_least(count: int) -> AfterValidator:
    def check(secret: SecretStr) -> SecretStr:
        if len(secret) < count:
            raise ValueError("must not be empty" if count == 1 else f"expected {count} characters or more")
        return secret

    return AfterValidator(check)


def _api_url(url: str) -> str:
    """The address of an API, without a slash at its end. It is shown, so there is no login in it."""
    parts = _split(url)
    if parts is None or parts.scheme not in {"https", "http"} or not parts.hostname or not _has_port(parts):
        raise ValueError("expected an address that begins with https:// and names a host")
    if "@" in parts.netloc or parts.query or not (url.isascii() and url.isprintable()):
        raise ValueError("expected a host and, after it, nothing or a path")
    return url.rstrip("/")


def _host(name: str) -> str:
    if not name or set(name.lower()) - set("abcdefghijklmnopqrstuvwxyz0123456789.-:") or name.startswith("."):
        raise ValueError("expected the name of a host; names that end in a dot and it are meant too")
    return name.lower()


def _some_time(value: timedelta) -> timedelta:
    if value <= timedelta():
        raise ValueError("expected a duration longer than nothing")
    return value


def check_links(addresses: Sequence[str], *, encrypted_network: bool) -> None:
    """Refuse Bytewax addresses (host:port) that leave this machine: the links carry pickles, without a key or password.

    Raises:
        ValueError: an address that is none, or one that is not loopback while the network is not declared encrypted.
    """
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ValueError(f"{address!r} is not host:port")
        if not encrypted_network and not _is_loopback(host.removeprefix("[").removesuffix("]")):
            raise ValueError(
                f"{address!r} is not loopback, and links between processes are plain TCP that runs what it is sent; "
                "set flow.encrypted_network if all of them run over an encrypted network that nobody else can reach"
            )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


Secret = Annotated[SecretStr, BeforeValidator(_from_file), _at_least(1)]
SecretKey = Annotated[SecretStr, BeforeValidator(_from_file), _at_least(16)]
RedisUrl = Annotated[ServerUrl, BeforeValidator(_from_file), _address("redis", "rediss", "unix")]
PostgresUrl = Annotated[ServerUrl, BeforeValidator(_from_file), _address("postgresql")]
Duration = Annotated[timedelta, BeforeValidator(duration), AfterValidator(_some_time)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Days = Annotated[int, Field(ge=1, le=36_500)]
Listed = BeforeValidator(_from_json)
ApiUrl = Annotated[str, AfterValidator(_api_url)]
HostName = Annotated[str, AfterValidator(_host)]
Plain = Annotated[Any, BeforeValidator(_plain)]
ExistingFile = Annotated[Path, AfterValidator(_existing)]
