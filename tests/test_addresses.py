"""Which addresses may be connected to: the lists, the exceptions, and the disguises."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teckochecker.addresses import (
    MAX_URL_CHARS,
    Allowed,
    Url,
    endpoint,
    literal_refusal,
    parse_url,
    refusal,
)
from teckochecker.errors import InvalidInput

NOTHING = Allowed()
EVERYTHING = Allowed.parse("0.0.0.0/0, ::/0")

# Of each refused network: what lies just before, its first and last address, just after;
# None where the neighbour is refused, too.
NETWORKS = [
    (None, "0.0.0.0", "0.255.255.255", "1.0.0.0"),
    ("9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"),
    ("100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0"),
    ("126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0"),
    ("169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0"),
    ("172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0"),
    ("191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0"),
    ("192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"),
    ("192.88.98.255", "192.88.99.0", "192.88.99.255", "192.88.100.0"),
    ("192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"),
    ("198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0"),
    ("198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0"),
    ("203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0"),
    ("223.255.255.255", "224.0.0.0", "239.255.255.255", None),
    (None, "240.0.0.0", "255.255.255.255", None),
    (None, "::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None),
    (None, "2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:200::"),
    (
        "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001:db8::",
        "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001:db9::",
    ),
    (
        "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "2002::",
        "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "2003::",
    ),
    ("3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff::", "3fff:fff:ffff::", "3fff:1000::"),
    (
        "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "4000::",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        None,
    ),
]
INSIDE = [address for _, first, last, _ in NETWORKS for address in (first, last)]
OUTSIDE = [address for before, _, _, after in NETWORKS for address in (before, after) if address]

DISGUISED = [
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",  # SIIT
    "::127.0.0.1",  # IPv4-compatible
    "64:ff9b::7f00:1",  # NAT64
    "64:ff9b::808:808",
    "64:ff9b:1::a00:1",
    "2002:7f00:1::",  # 6to4
    "2001:0:7f00:1::1",  # Teredo
    "100::1",  # discard
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "fc00::1",
    "fd12:3456:789a::1",
    "ff02::1",
    "5f00::1",
]

METADATA = [
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "169.254.0.23",
    "169.254.42.42",
    "100.100.100.200",
    "168.63.129.16",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:42::42",
    "fd00:c1::a9fe:a9fe",
    "fe80::a9fe:a9fe%eth0",
]

LOOPBACK_FORMS = [
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "2130706433",
    "0x7f000001",
    "0X7F000001",
    "0x7f.1",
    "0x7f.0.0.0x1",
    "0177.0.0.1",
    "0177.1",
    "017700000001",
    "00177.0.0.01",
    "0",
    "0.0.0.0",
    "0x0",
    "::1",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "LocalHost.",
    "api.localhost",
    "a.b.localhost.",
    "１２７.０.０.１",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "127．0．0．1",
    "127｡0｡0｡1",
    "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
    "ｌｏｃａｌｈｏｓｔ",
]


@pytest.mark.parametrize("address", INSIDE + DISGUISED + METADATA)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    said = refusal("api.example.com", 443, [address], NOTHING)

    assert said is not None
    assert said.startswith("api.example.com:443 ")


@pytest.mark.parametrize("address", [*OUTSIDE, "8.8.8.8", "::ffff:8.8.8.8", "2606:4700::1111"])
def test_a_public_address_is_let_pass(address: str) -> None:
    assert refusal("api.example.com", 443, [address], NOTHING) is None


def test_one_bad_address_among_good_ones_is_enough() -> None:
    assert refusal("api.example.com", 443, ["8.8.8.8", "10.0.0.1"], NOTHING) is not None


def test_a_host_without_an_address_is_refused() -> None:
    assert refusal("api.example.com", 443, [], NOTHING) is not None


def test_a_refusal_tells_the_operator_what_to_list() -> None:
    said = refusal("ci.internal", 8080, ["10.0.0.1"], NOTHING)

    assert said is not None
    assert "10.0.0.1" in said
    assert "list ci.internal:8080 in ALLOWED_PRIVATE_HOSTS" in said
    assert refusal("ci.internal", 8080, ["10.0.0.1"], Allowed.parse("ci.internal:8080")) is None


@pytest.mark.parametrize("address", METADATA)
def test_metadata_stays_closed_even_if_listed(address: str) -> None:
    listed = Allowed.parse(f"0.0.0.0/0, ::/0, box.internal, {address.partition('%')[0]}")

    assert refusal("box.internal", 80, [address], listed) is not None


@pytest.mark.parametrize("name", ["metadata.google.internal", "METADATA.goog.", "instance-data"])
def test_metadata_names_stay_closed_wherever_they_lead(name: str) -> None:
    listed = Allowed.parse(f"{name.lower().rstrip('.')}, 8.8.8.8")

    assert refusal(name, 80, ["8.8.8.8"], listed) is not None
    assert literal_refusal(name, 80, listed) is not None


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "::1"),
        ("127.0.0.1", "0.0.0.0"),
        ("127.9.9.9", "0.0.0.0"),
        ("127.0.0.1", "::"),
        ("::1", "::"),
        ("0.0.0.0", "0.0.0.0"),
        ("192.168.1.5", "192.168.1.5"),
        ("8.8.8.8", "8.8.8.8"),
    ],
)
def test_our_own_address_stays_closed_even_if_listed(address: str, own: str) -> None:
    assert refusal("box", 8000, [address], EVERYTHING, [(own, 8000)]) is not None
    assert refusal("box", 8001, [address], EVERYTHING, [(own, 8000)]) is None


@pytest.mark.parametrize(
    ("address", "own"),
    [("127.0.0.2", "127.0.0.1"), ("192.168.1.6", "192.168.1.5"), ("8.8.8.8", "0.0.0.0")],
)
def test_another_address_is_not_our_own(address: str, own: str) -> None:
    assert refusal("box", 8000, [address], EVERYTHING, [(own, 8000)]) is None


@pytest.mark.parametrize(
    ("setting", "host", "port", "address"),
    [
        ("ci.internal", "ci.internal", 1, "10.0.0.1"),
        ("ci.internal", "CI.Internal.", 1, "10.0.0.1"),
        ("CI.Internal.", "ci.internal", 1, "10.0.0.1"),
        ("ci.internal:8080", "ci.internal", 8080, "fd00::1"),
        (" , ci.internal:8080 ,, other ", "other", 1, "127.0.0.1"),
        ("10.0.0.1", "any", 1, "10.0.0.1"),
        ("10.0.0.1", "any", 1, "::ffff:10.0.0.1"),
        ("::ffff:10.0.0.1", "any", 1, "10.0.0.1"),
        ("10.0.0.1:80", "any", 80, "10.0.0.1"),
        ("127.1", "any", 80, "127.0.0.1"),
        ("10.0.0.0/8", "any", 1, "10.9.9.9"),
        ("fd00::1", "any", 1, "fd00::1"),
        ("[fd00::1]", "any", 1, "fd00::1"),
        ("[fd00::1]:443", "any", 443, "fd00::1"),
        ("fe80::/10", "any", 443, "fe80::1%eth0"),
    ],
)
def test_what_the_operator_lists_is_let_pass(
    setting: str, host: str, port: int, address: str
) -> None:
    assert refusal(host, port, [address], Allowed.parse(setting)) is None


@pytest.mark.parametrize(
    ("setting", "host", "port", "address"),
    [
        ("ci.internal", "evil.ci.internal", 1, "10.0.0.1"),
        ("ci.internal", "internal", 1, "10.0.0.1"),
        ("ci.internal:8080", "ci.internal", 8081, "10.0.0.1"),
        ("10.0.0.1:80", "any", 81, "10.0.0.1"),
        ("10.0.0.1", "any", 80, "10.0.0.2"),
        ("[fd00::1]:443", "any", 80, "fd00::1"),
        ("10.0.0.0/8", "any", 1, "192.168.0.1"),
        ("", "any", 1, "192.168.0.1"),
    ],
)
def test_a_listing_opens_nothing_else(setting: str, host: str, port: int, address: str) -> None:
    assert refusal(host, port, [address], Allowed.parse(setting)) is not None


@pytest.mark.parametrize(
    "setting",
    [
        "http://ci.internal",
        "ci.internal/path",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0.0/8:80",
        "ci.internal:",
        "ci.internal:0",
        "ci.internal:65536",
        "ci.internal:http",
        "*.internal",
        "two words",
        "-dash",
        "[fd00::1",
        "[ci.internal]:80:90",
        "fd00::x",
        "a..b",
        "bücher.internal",
    ],
)
def test_a_bad_entry_is_quoted(setting: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Allowed.parse(f"fine.internal, {setting}")

    assert "ALLOWED_PRIVATE_HOSTS" in str(caught.value)
    assert repr(setting) in str(caught.value)


@pytest.mark.parametrize("host", LOOPBACK_FORMS)
def test_loopback_is_seen_through_every_disguise(host: str) -> None:
    assert literal_refusal(host, 80, NOTHING) is not None
    assert literal_refusal(host, 80, EVERYTHING) is None


@pytest.mark.parametrize(
    "host", ["api.example.com", "127.0.0.1.example.com", "1.2.3.4.5", "1.2.3.256", "0x", "8.8.8.8"]
)
def test_other_hosts_are_left_to_dns(host: str) -> None:
    assert literal_refusal(host, 80, NOTHING) is None


@given(
    st.lists(
        st.one_of(
            st.integers(0, 2**33).map(str),
            st.integers(0, 2**33).map(hex),
            st.integers(0, 2**33).map(lambda number: f"0{number:o}"),
            st.integers(0, 300).map(str),
            st.text("0123456789abcdefx", max_size=4),
        ),
        max_size=5,
    ).map(".".join)
)
def test_numbers_are_read_as_the_c_library_reads_them(host: str) -> None:
    expected = None
    with contextlib.suppress(OSError):
        expected = ipaddress.IPv4Address(socket.inet_aton(host.removesuffix(".")))

    refused = expected is not None and refusal("x", 80, [str(expected)], NOTHING) is not None

    assert (literal_refusal(host, 80, NOTHING) is not None) == refused


@given(st.ip_addresses(), st.integers(1, 65535))
def test_an_address_is_let_pass_once_it_is_listed(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    text = str(address)
    if text in METADATA:
        return

    assert refusal("x", port, [text], Allowed.parse(text)) is None
    assert refusal("x", port, [text], Allowed.parse(endpoint(text, port))) is None


@given(st.one_of(st.text(), st.text("abc019.:/[]%,- x")))
def test_a_setting_is_read_or_refused_with_a_sentence(setting: str) -> None:
    try:
        Allowed.parse(setting)
    except InvalidInput as error:
        assert "ALLOWED_PRIVATE_HOSTS" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("url", "expected", "origin"),
    [
        (
            "https://api.example.com/v1?x=1",
            Url("https", "api.example.com", 443),
            "https://api.example.com:443",
        ),
        (
            "HTTPS://API.Example.COM.:8443",
            Url("https", "api.example.com", 8443),
            "https://api.example.com:8443",
        ),
        ("https://under_score.example/", Url("https", "under_score.example", 443), None),
        ("https://xn--bcher-kva.example/", Url("https", "xn--bcher-kva.example", 443), None),
        ("https://134744072/", Url("https", "8.8.8.8", 443), "https://8.8.8.8:443"),
        (
            "https://[2606:4700:0::1111]/",
            Url("https", "2606:4700::1111", 443),
            "https://[2606:4700::1111]:443",
        ),
        ("https://api.example.com:/x%20y", Url("https", "api.example.com", 443), None),
    ],
)
def test_a_url_is_read(url: str, expected: Url, origin: str | None) -> None:
    parsed = parse_url(url, NOTHING)

    assert parsed == expected
    assert origin in (None, parsed.origin)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("ftp://example.com/", "https://"),
        ("file:///etc/passwd", "https://"),
        ("gopher://example.com/", "https://"),
        ("//example.com/", "https://"),
        ("example.com/hook", "https://"),
        ("", "https://"),
        ("https:///path", "no host"),
        ("https://", "no host"),
        ("https://:443/", "no host"),
        ("https://user@example.com/", "header"),
        ("https://user:word@example.com/", "header"),
        ("https://example.com@127.0.0.1/", "header"),
        ("https://example.com/#x", "fragment"),
        ("https://example.com/#", "fragment"),
        ("https://exa mple.com/", "blank"),
        ("https://example.com/a\nb", "blank"),
        ("https://example.com/\t", "blank"),
        ("https://example.com/\x00", "blank"),
        ("https://example.com/\u202e", "blank"),
        ("https://example.com\\@127.0.0.1/", "blank"),
        ("https://example.com:0/", "port"),
        ("https://example.com:65536/", "port"),
        ("https://example.com:-1/", "port"),
        ("https://example.com:x/", "port"),
        ("https://example.com:4_4/", "port"),
        ("https://exam%70le.com/", "neither"),
        ("https://127.0.0.%31/", "neither"),
        ("https://a..b/", "neither"),
        ("https://-a.example/", "neither"),
        (f"https://{'a' * 64}.example/", "neither"),
        (f"https://{'a.' * 127}example/", "neither"),
        ("https://bücher.example/", "xn--"),
        ("https://①②⑦.⓪.⓪.①/", "xn--"),
        ("https://[::1/", "can't be read"),
        ("https://x[::1]/", "can't be read"),
        ("https://[::1]x/", "host"),
        ("https://a℀b/", "can't be read"),
        ("http://example.com/", "use https://"),
        ("http://8.8.8.8/", "use https://"),
        ("https://127.0.0.1/", "public"),
        ("http://127.0.0.1/", "public"),
        ("https://localhost/", "public"),
        ("https://0x7f.1/", "public"),
        ("https://2130706433/", "public"),
        ("https://[::1]/", "public"),
        ("https://[fe80::1%25eth0]/", "public"),
        ("https://169.254.169.254/latest/", "metadata"),
        ("https://metadata.google.internal/", "metadata"),
        (f"https://example.com/{'x' * MAX_URL_CHARS}", str(MAX_URL_CHARS)),
    ],
)
def test_a_bad_url_is_refused_with_its_reason(url: str, word: str) -> None:
    with pytest.raises(InvalidInput, match=r".") as caught:
        parse_url(url, NOTHING)

    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("url", "setting"),
    [
        ("http://ci.internal:8080/x", "ci.internal:8080"),
        ("http://10.1.2.3/x", "10.0.0.0/8"),
        ("http://localhost:9/x", "localhost"),
        ("http://localhost:9/x", "127.0.0.1:9"),
        ("http://[fd00::1]/", "[fd00::1]:80"),
        ("https://0177.0.0.1/", "127.0.0.1"),
    ],
)
def test_a_listed_host_may_be_given(url: str, setting: str) -> None:
    assert parse_url(url, Allowed.parse(setting)).port > 0


@given(
    st.one_of(
        st.text(),
        st.text("htps:/[]@.%#?0179xaf ").map("https://".__add__),
        st.text().map("https://".__add__),
    )
)
def test_a_url_is_read_or_refused_with_a_sentence(url: str) -> None:
    try:
        parsed = parse_url(url, NOTHING)
    except InvalidInput as error:
        assert len(str(error)) > 10  # noqa: PT017
    else:
        assert parsed.origin == parsed.origin.lower()
        assert 0 < parsed.port < 65536
        assert literal_refusal(parsed.host, parsed.port, NOTHING) is None
        assert parse_url(parsed.origin, NOTHING) == parsed
