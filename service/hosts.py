"""Hosts to which the service may send something: by name, and by the addresses that the name has when it connects."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

__all__ = ["AllowedHosts"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAME = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.ASCII)
# Addresses of IPv6 by which a gateway reaches IPv4 (RFC 6052, RFC 8215).
_GATEWAYS = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


@dataclass(frozen=True)
class AllowedHosts:
    """Names, and networks of addresses. A name ``*.example.org`` stands for all below ``example.org``."""

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> AllowedHosts:
        """Return what a list of names, addresses and networks allows, separated by commas.

        Raises:
            ValueError: a part of it is none of these.
        """
        names, networks = set[str](), list[Network]()
        for part in (item.strip().lower().rstrip(".") for item in text.split(",")):
            if not part:
                continue
            try:
                networks.append(ipaddress.ip_network(part.strip("[]"), strict=False))
            except ValueError:
                if _NAME.fullmatch(part) is None:
                    raise ValueError(
                        f"{part!r} is no host: write names (hooks.example.org, *.example.org), addresses (10.0.0.5) or "
                        "networks (10.0.0.0/8), without scheme and port"
                    ) from None
                names.add(part)
        return cls(frozenset(names), tuple(networks))

    def allows(self, host: str) -> bool:
        """Return whether the host of an address may be called: a name, or an address that is written out."""
        host = host.lower().rstrip(".").strip("[]")
        try:
            return self._names(ipaddress.ip_address(host))
        except ValueError:
            parts = host.split(".")
            below = {f"*.{'.'.join(parts[place:])}" for place in range(1, len(parts))}
            return host in self.names or not below.isdisjoint(self.names)

    def reaches(self, address: str) -> bool:
        """Return whether an address that a name was resolved to may be connected to.

        One that is not of the public internet must be named: by itself, or by a network that it is in.
        """
        found = ipaddress.ip_address(address.partition("%")[0])
        inner = _within(found)
        return self._names(found) or (inner.is_global and not inner.is_multicast and not _is_of_a_gateway(found))

    def _names(self, address: Address) -> bool:
        inner = _within(address)
        return any(inner in network for network in self.networks if network.version == inner.version)


def _within(address: Address) -> Address:
    """Return the address of IPv4 that one of IPv6 stands for."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_of_a_gateway(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return False
    return address.sixtofour is not None or address.teredo is not None or any(address in net for net in _GATEWAYS)
