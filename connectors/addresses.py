"""Which network addresses may be connected to. A name can be made to resolve to anything, to ourselves among others."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

_OURS: Final = tuple(
    map(
        ip_network,
        ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "::1/128", "fc00::/7"),
    )
)
# What a cloud's machines ask for their own credentials, where that is no link-local address:
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html and
# https://www.alibabacloud.com/help/en/ecs/user-guide/view-instance-metadata
_METADATA: Final = frozenset(map(ip_address, ("fd00:ec2::254", "100.100.100.200")))
# Special ones that not every release of the standard library knows:
# https://www.iana.org/assignments/iana-ipv4-special-registry and .../iana-ipv6-special-registry
_SPECIAL: Final = tuple(
    map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "2001::/23", "3fff::/20", "5f00::/16"))
)
_NAT64: Final = ip_network("64:ff9b::/96")  # https://www.rfc-editor.org/rfc/rfc6052
_COMPATIBLE: Final = ip_network("::/96")  # https://www.rfc-editor.org/rfc/rfc4291#section-2.5.5.1
_LOW_32_BITS: Final = 0xFFFFFFFF


def reachable(address: str, *, private: bool) -> bool:
    """Whether we may connect to `address`: a public one, or with `private` also one of a network of our own.

    Link-local addresses never: behind 169.254.169.254 clouds keep the machine's credentials.
    """
    meant = _meant(ip_address(address))
    if meant in _METADATA or _in_any(meant, _SPECIAL):
        return False
    if _in_any(meant, _OURS):
        return private
    return meant.is_global and not (meant.is_multicast or meant.is_reserved)


def is_private_host(host: str) -> bool:
    """Whether `host` itself says that it stands in a network of our own: such an address, or the loopback's name."""
    try:
        meant = _meant(ip_address(host))
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return _in_any(meant, _OURS)


def _in_any(address: IPv4Address | IPv6Address, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def _meant(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return IPv4Address(int(address) & _LOW_32_BITS)
    return address.ipv4_mapped or address.sixtofour or address
