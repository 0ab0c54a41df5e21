"""Decide which hosts, addresses and files a request may have media fetched from.

A host is allowed by name, and then each of its addresses must be a public one, or in a network that the deployment
names. Addresses that serve credentials to machines are refused whatever is configured.
"""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Sequence[str]]
ANY = "*"
PORTS = {"http": 80, "https": 443}
METADATA = tuple(
    map(ip_network, ("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "100.100.100.200/32", "168.63.129.16/32"))
)
"""Where clouds serve a machine's credentials and settings: link-local of both kinds, and what lies beside it."""
TRANSLATED = ip_network("64:ff9b::/96")
"""IPv4 addresses behind a translator (RFC 6052)."""
NOT_PUBLIC = tuple(map(ip_network, ("64:ff9b:1::/48", "2001::/23", "100.64.0.0/10")))
"""What Python counts as public in some versions: local translation, Teredo and its neighbours, carriers' own."""


class Forbidden(Exception):
    """A URL that no request may have fetched; the message says why, in words that follow the field's name."""


def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system for a host's addresses. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaAccess:
    """What the deployment allows.

    `hosts`: names, `*.` before one for all below it, `:port` behind one for a port of its own, or ANY; none: no host.
    `networks`: those that are not public and allowed all the same. `folder`: whose files may be named; None: none.
    """

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    folder: Path | None = None
    resolve: Resolve = field(default=resolve, compare=False)

    def check_host(self, scheme: str, host: str, port: int) -> None:
        """Look whether a host may be asked at all. Raises Forbidden."""
        if not self.hosts:
            raise Forbidden("cannot be fetched: this deployment fetches from no host (option.allowed_media_domains)")
        is_usual = port == PORTS[scheme]
        names = [host, *(f"*.{host.split('.', count)[-1]}" for count in range(1, host.count(".") + 1))]
        allowed = {f"{name}:{port}" for name in names} | ({*names, ANY} if is_usual else set())
        if self.hosts.isdisjoint(allowed):
            where = host if is_usual else f"port {port} of {host}"
            raise Forbidden(f"must be of a host that is allowed (option.allowed_media_domains), which {where} is not")

    def addresses(self, host: str, port: int) -> Sequence[str]:
        """Return a host's addresses, for one connection. Raises Forbidden if one may not be asked, OSError."""
        found = self.resolve(host, port)
        if not found or not all(self._is_allowed(address) for address in found):
            raise Forbidden(f"must be of a host with public addresses alone, which {host} is not")
        return found

    def _is_allowed(self, text: str) -> bool:
        try:
            address = ip_address(text.partition("%")[0])
        except ValueError:
            return False
        meant = carried(address)
        if any(_is_in(one, METADATA) for one in meant):
            return False
        return all(is_public(one) or _is_in(one, self.networks) for one in meant)


def carried(address: Address) -> list[Address]:
    """Return an address and the IPv4 addresses that it carries: mapped, translated or tunnelled."""
    if isinstance(address, IPv4Address):
        return [address]
    last = IPv4Address(int(address) & 0xFFFF_FFFF)
    if address.ipv4_mapped or address in TRANSLATED:
        return [last]
    return [address, address.sixtofour] if address.sixtofour else [address]


def is_public(address: Address) -> bool:
    """Whether anybody may reach an address: no private, loopback, link-local, carrier's or reserved one."""
    is_odd = address.is_multicast or address.is_reserved or getattr(address, "is_site_local", False)
    return address.is_global and not is_odd and not _is_in(address, NOT_PUBLIC)


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
