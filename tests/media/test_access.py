from ipaddress import ip_network

import pytest

from lmi_chat.media.access import Forbidden, MediaAccess

PUBLIC = ("8.8.8.8", "93.184.216.34", "2606:4700::1111", "64:ff9b::808:808")
NOT_PUBLIC = {
    "this host": "0.0.0.0",
    "loopback": "127.0.0.1",
    "loopback, another": "127.8.9.10",
    "loopback of IPv6": "::1",
    "private, 10": "10.1.2.3",
    "private, 172": "172.31.255.255",
    "private, 192": "192.168.0.1",
    "link-local": "169.254.1.1",
    "metadata": "169.254.169.254",
    "a container's credentials": "169.254.170.2",
    "metadata of IPv6": "fd00:ec2::254",
    "Azure's wire server": "168.63.129.16",
    "Alibaba's metadata": "100.100.100.200",
    "a carrier's": "100.64.0.1",
    "multicast": "224.0.0.1",
    "broadcast": "255.255.255.255",
    "reserved": "240.0.0.1",
    "documentation": "192.0.2.1",
    "benchmarks": "198.18.0.1",
    "unique local": "fc00::1",
    "link-local of IPv6": "fe80::1",
    "with a zone": "fe80::1%eth0",
    "site-local": "fec0::1",
    "IPv4 mapped": "::ffff:127.0.0.1",
    "metadata, mapped": "::ffff:169.254.169.254",
    "IPv4 compatible": "::127.0.0.1",
    "translated": "64:ff9b::a9fe:a9fe",
    "translated here": "64:ff9b:1::808:808",
    "6to4": "2002:7f00:1::",
    "Teredo": "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "unspecified": "::",
    "no address": "localhost",
}


def access(address: str, **changes: object) -> MediaAccess:
    return MediaAccess(hosts=frozenset({"*"}), resolve=lambda _host, _port: [address], **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert access(address).addresses("a.test", 443) == [address]


@pytest.mark.parametrize("name", NOT_PUBLIC)
def test_addresses_that_are_not_public(name: str) -> None:
    with pytest.raises(Forbidden, match=r"public addresses alone, which a\.test is not"):
        access(NOT_PUBLIC[name]).addresses("a.test", 443)


def test_one_address_that_is_not_public_is_enough() -> None:
    mixed = MediaAccess(hosts=frozenset({"*"}), resolve=lambda *_: ["8.8.8.8", "10.0.0.1"])
    with pytest.raises(Forbidden):
        mixed.addresses("a.test", 443)
    with pytest.raises(Forbidden):
        MediaAccess(hosts=frozenset({"*"}), resolve=lambda *_: []).addresses("a.test", 443)


def test_networks_that_the_deployment_allows() -> None:
    """Not those that serve credentials, whatever is configured."""
    networks = tuple(map(ip_network, ("10.0.0.0/8", "0.0.0.0/0", "::/0")))
    assert access("10.0.0.1", networks=networks[:1]).addresses("a.test", 443)
    assert access("::ffff:10.0.0.1", networks=networks[:1]).addresses("a.test", 443)
    for address in (
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fd00:ec2::254",
        "168.63.129.16",
        "64:ff9b::a9fe:a9fe",
    ):
        with pytest.raises(Forbidden):
            access(address, networks=networks).addresses("a.test", 443)


@pytest.mark.parametrize(
    ("hosts", "scheme", "host", "port", "is_allowed"),
    [
        ((), "https", "a.org", 443, False),
        (("a.org",), "https", "a.org", 443, True),
        (("a.org",), "http", "a.org", 80, True),
        (("a.org",), "https", "b.org", 443, False),
        (("a.org",), "https", "x.a.org", 443, False),
        (("a.org",), "https", "a.org", 8443, False),
        (("a.org",), "http", "a.org", 443, False),
        (("a.org:8443",), "https", "a.org", 8443, True),
        (("a.org:8443",), "https", "a.org", 443, False),
        (("*.a.org",), "https", "x.a.org", 443, True),
        (("*.a.org",), "https", "y.x.a.org", 443, True),
        (("*.a.org",), "https", "a.org", 443, False),
        (("*.a.org",), "https", "xa.org", 443, False),
        (("*",), "https", "a.org", 443, True),
        (("*",), "https", "a.org", 22, False),
    ],
)
def test_hosts(hosts: tuple[str, ...], scheme: str, host: str, port: int, *, is_allowed: bool) -> None:
    allowed = MediaAccess(hosts=frozenset(hosts))
    if is_allowed:
        allowed.check_host(scheme, host, port)
        return
    with pytest.raises(Forbidden, match=r"option\.allowed_media_domains"):
        allowed.check_host(scheme, host, port)
