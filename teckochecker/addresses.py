"""Which addresses may be connected to, and which URLs people may give.

Whoever may add a job could otherwise reach what only this machine can: its services, its
network, and the credentials that a cloud serves at a metadata address. What `refusal` lets
pass is a public address, or one that the operator opened in ALLOWED_PRIVATE_HOSTS. Pure:
names are resolved in `http`, which asks here and connects to exactly what was asked about.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from urllib.parse import SplitResult, urlsplit

from teckochecker.errors import InvalidInput

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL_CHARS = 500
DEFAULT_PORTS = {"http": 80, "https": 443}

# Not `is_global`: it is true for several forms that end at a private address.
_REFUSED_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_ASSIGNED_V6 = IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)

# They hand out credentials to whoever asks from this machine.
_METADATA = frozenset(
    ip_address(address)
    for address in (
        "169.254.169.254",  # nearly every cloud
        "169.254.170.2",  # AWS ECS
        "169.254.170.23",  # AWS EKS
        "169.254.0.23",  # Tencent
        "169.254.42.42",  # Scaleway
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure's wire server, in a public range
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",  # AWS EKS
        "fd20:ce::254",  # Google
        "fd00:42::42",  # Scaleway
        "fd00:c1::a9fe:a9fe",  # Oracle
        "fe80::a9fe:a9fe",  # OpenStack
    )
)
_METADATA_NAMES = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "metadata.tencentyun.com",
        "instance-data",
        "instance-data.ec2.internal",
    }
)

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"0x[0-9a-f]+|0[0-7]*|[1-9][0-9]*")
_NETLOC = re.compile(r"(?:\[[^\[\]]+\]|[^\[\]:]*)(?::[0-9]{0,5})?")
_ENTRY = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^\[\]:]+))(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the operator opened: host names and networks, each on one port or, None, on all."""

    names: frozenset[tuple[str, int | None]] = frozenset()
    networks: frozenset[tuple[Network, int | None]] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Allowed:
        """Read the setting, like `ci.internal, build:8080, 10.1.2.3:80, [fd00::1]:443, 10.0.0.0/8`.

        Raises InvalidInput that quotes the entry it can't read.
        """
        entries = [_entry(part.strip()) for part in text.split(",") if part.strip()]
        return cls(
            frozenset((what, port) for what, port in entries if isinstance(what, str)),
            frozenset((what, port) for what, port in entries if not isinstance(what, str)),
        )

    def covers(self, host: str, port: int, address: Address | None) -> bool:
        """Whether the host is listed by name, or the address by itself or in a network."""
        if {(_plain(host), None), (_plain(host), port)} & self.names:
            return True
        return address is not None and any(
            address in network and only in (None, port) for network, only in self.networks
        )


@dataclass(frozen=True, slots=True)
class Url:
    """Where a checked URL leads: all in lower case, an IP address in its usual form."""

    scheme: str
    host: str
    port: int

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{endpoint(self.host, self.port)}"


def endpoint(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def refusal(
    host: str,
    port: int,
    addresses: Sequence[str],
    allowed: Allowed,
    own: Collection[tuple[str, int]] = (),
) -> str | None:
    """Say why a host that resolved to `addresses` may not be connected to; None if it may.

    One bad address is enough, since it is luck which one is taken. Metadata services and
    `own`, the addresses that we listen on, stay closed whatever is `allowed`.
    """
    where = endpoint(host, port)
    if _plain(host) in _METADATA_NAMES:
        return f"{where} is a cloud's metadata service, which is never called"
    if not addresses:
        return f"{where} has no address"
    for address in map(_address, addresses):
        if address in _METADATA:
            return f"{where} leads to {address}, a cloud's metadata service, which is never called"
        if any(_reaches(address, port, ours) for ours in own):
            return f"{where} leads to TeckoChecker itself, which jobs never call"
        if not (_is_public(address) or allowed.covers(host, port, address)):
            return (
                f"{where} leads to {address}, which isn't a public address: "
                f"list {where} in ALLOWED_PRIVATE_HOSTS if it may be called"
            )
    return None


def literal_refusal(url_host: str, port: int, allowed: Allowed) -> str | None:
    """Say why a host may not be connected to, as far as that is known without asking DNS."""
    if _plain(url_host) in _METADATA_NAMES:
        return refusal(url_host, port, (), allowed)
    address = _known_address(url_host)
    return None if address is None else refusal(url_host, port, (str(address),), allowed)


def parse_url(url: str, allowed: Allowed) -> Url:
    """Check a URL that somebody gave us for later calls; raises InvalidInput."""
    parts = _split(url)
    parsed = Url(parts.scheme, _host(parts), _port(parts))
    complaint = literal_refusal(parsed.host, parsed.port, allowed)
    if complaint is not None:
        raise InvalidInput(complaint)
    if parsed.scheme == "http" and not _is_listed(parsed, allowed):
        raise InvalidInput(
            "http:// shows everything on its way: use https://, or list "
            f"{endpoint(parsed.host, parsed.port)} in ALLOWED_PRIVATE_HOSTS"
        )
    return parsed


def _is_listed(url: Url, allowed: Allowed) -> bool:
    return allowed.covers(url.host, url.port, _known_address(url.host))


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    return address in _ASSIGNED_V6 and not any(address in network for network in _REFUSED_V6)


def _reaches(address: Address, port: int, ours: tuple[str, int]) -> bool:
    """Whether a connection to `address` ends at our own listening socket.

    0.0.0.0 and :: stand for the loopback when connected to, and for everything when bound.
    """
    bound = _address(ours[0])
    if port != ours[1]:
        return False
    if address.is_unspecified or bound.is_unspecified:
        return _is_loopback(address) and _is_loopback(bound)
    return address == bound


def _is_loopback(address: Address) -> bool:
    return address.is_loopback or address.is_unspecified


def _address(text: str) -> Address:
    """The address itself: without a scope, and IPv4 out of its IPv6 wrapping."""
    address = ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def _plain(host: str) -> str:
    """A host as resolvers take it: `１２７。0.0.1` and `LOCALHOST.` lead where they seem to."""
    return unicodedata.normalize("NFKC", host).replace("\u3002", ".").lower().removesuffix(".")


def _known_address(host: str) -> Address | None:
    """Where a host leads that needs no DNS: an IP address in any form, or localhost."""
    plain = _plain(host)
    if plain == "localhost" or plain.endswith(".localhost"):
        return IPv4Address("127.0.0.1")
    return _literal(plain)


def _literal(host: str) -> Address | None:
    try:
        return _address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return _inet_aton(host)


def _inet_aton(host: str) -> IPv4Address | None:
    """The forms of old that resolvers still take: 127.1, 2130706433, 0x7f.1, 0177.0.0.1."""
    parts = host.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    *head, last = map(_number, parts)
    if any(number > 255 for number in head) or last >= 256 ** (4 - len(head)):
        return None
    return IPv4Address(last + sum(number << (24 - 8 * i) for i, number in enumerate(head)))


def _number(part: str) -> int:
    if part.startswith("0x"):
        return int(part, 16)
    return int(part, 8 if part.startswith("0") else 10)


def _is_name(host: str) -> bool:
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in host.split("."))


def _entry(text: str) -> tuple[str | Network, int | None]:
    if "/" in text:
        return _network(text), None
    host, port = _host_and_port(text)
    address = _literal(host)
    if address is not None:
        return ip_network(address), port
    if not _is_name(host):
        raise _bad_entry(text, "that is neither a host name nor an IP address")
    return host, port


def _host_and_port(text: str) -> tuple[str, int | None]:
    if "[" not in text and text.count(":") > 1:
        return text, None  # an IPv6 address without brackets has no port
    match = _ENTRY.fullmatch(text)
    if match is None:
        raise _bad_entry(text, "write host, host:port, an IP address, [IPv6]:port or a network")
    port = None if match["port"] is None else int(match["port"])
    if port is not None and not 0 < port < 65536:
        raise _bad_entry(text, "a port is 1 to 65535")
    return _plain(match["v6"] or match["host"]), port


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        reason = f"a network is written like 10.0.0.0/8, a host without scheme and path ({error})"
        raise _bad_entry(text, reason) from error


def _bad_entry(text: str, reason: str) -> InvalidInput:
    return InvalidInput(f"ALLOWED_PRIVATE_HOSTS: {text!r} can't be read: {reason}")


def _split(url: str) -> SplitResult:
    if len(url) > MAX_URL_CHARS:
        raise InvalidInput(f"the URL is longer than {MAX_URL_CHARS} characters")
    # Before splitting: urlsplit removes line breaks and tabs silently.
    if any(char == "\\" or char.isspace() or not char.isprintable() for char in url):
        raise InvalidInput("the URL has a blank, backslash or control character: encode it as %XX")
    if "#" in url:
        raise InvalidInput("the URL has a fragment (#...), which is never sent: leave it out")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidInput("the URL can't be read: write https://host/path") from error
    if parts.scheme not in DEFAULT_PORTS:
        raise InvalidInput("the URL must start with https://")
    if "@" in parts.netloc:
        raise InvalidInput("the URL has a user or password: put them into a header, as a secret")
    if not _NETLOC.fullmatch(parts.netloc):
        raise InvalidInput("the URL's host or port can't be read: write https://host:port/path")
    return parts


def _host(parts: SplitResult) -> str:
    host = (parts.hostname or "").removesuffix(".")
    if not host:
        raise InvalidInput("the URL has no host: write https://host/path")
    if not host.isascii():
        raise InvalidInput("the URL's host isn't ASCII: write it in its xn-- form")
    address = _literal(host)
    if address is not None:
        return str(address)
    if not _is_name(host):
        raise InvalidInput("the URL's host is neither a host name nor an IP address")
    return host


def _port(parts: SplitResult) -> int:
    digits = parts.netloc.rpartition("]")[2].partition(":")[2]
    port = int(digits) if digits else DEFAULT_PORTS[parts.scheme]
    if not 0 < port < 65536:
        raise InvalidInput("the URL's port must be 1 to 65535")
    return port
