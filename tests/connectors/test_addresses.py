import pytest

from connectors.addresses import is_private_host, reachable

PUBLIC = ["140.82.112.5", "8.8.8.8", "2606:50c0:8000::153", "::ffff:140.82.112.5", "64:ff9b::8c52:7005"]
OURS = [
    *("127.0.0.1", "127.8.9.1", "10.0.0.7", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"),
    *("::1", "fd12:3456::1", "::ffff:10.0.0.7", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "::127.0.0.1", "2002:a00:7::"),
]
NEVER = [
    *("169.254.169.254", "169.254.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1", "fd00:ec2::254"),
    *("::", "fe80::1", "fe80::1%eth0", "ff02::1", "2001:db8::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"),
    *("2002:a9fe:a9fe::", "::169.254.169.254", "::ffff:0.0.0.0"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_connected_to(address: str) -> None:
    assert reachable(address, private=False)
    assert reachable(address, private=True)


@pytest.mark.parametrize("address", OURS)
def test_an_address_of_our_own_only_where_that_is_meant(address: str) -> None:
    assert not reachable(address, private=False)
    assert reachable(address, private=True)


@pytest.mark.parametrize("address", NEVER)
def test_what_only_leads_to_ourselves_never(address: str) -> None:
    assert not reachable(address, private=False)
    assert not reachable(address, private=True)


@pytest.mark.parametrize(
    ("host", "private"),
    [
        *((host, True) for host in ("localhost", "ci.localhost", "127.0.0.1", "10.1.2.3", "::1", "fd00::7")),
        *((host, False) for host in ("github.com", "localhost.example.com", "8.8.8.8", "169.254.169.254", "")),
    ],
)
def test_a_host_says_itself_that_it_is_ours_by_its_address_or_the_name_of_the_loopback(
    host: str, private: bool
) -> None:
    assert is_private_host(host) is private
