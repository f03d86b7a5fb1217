"""Which names a table knows, and what it says of them."""

import socket
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot_agent.dns.index import Index, build
from pilot_agent.dns.naming import Naming
from pilot_agent.dns.table import NameTable
from pilot_agent.wire import WireError
from tests.support.name_tables import Host, Model, encoded, table_of

NAMING = Naming.of(
    namespace="ns1", domain="ns1.svc.cluster.local", search=("ns1.svc.cluster.local", "svc.cluster.local")
)
SEARCH = "ns1.svc.cluster.local."
HOSTS = {
    "www.google.com": Host(["1.1.1.1"], "External"),
    "productpage.ns1.svc.cluster.local": Host(["9.9.9.9"], "Kubernetes", "productpage", "ns1"),
    "details.ns2.svc.cluster.local": Host(
        ["11.11.11.11", "13.13.13.13", "12.12.12.12"], "Kubernetes", "details", "ns2", ["details-alt.ns2.svc"]
    ),
    "far.ns2.svc.other.example": Host(["7.7.7.7"], "Kubernetes", "far", "ns2"),
    "dual.localhost": Host(["2.2.2.2", "2001:db8::2", "::ffff:1.2.3.4", "fe80::1%eth0"], "External"),
    "ipv6.localhost": Host(["2001:db8::6"], "External"),
    "*.wildcard": Host(["10.10.10.10"], "External"),
    "svc.mesh.wildcard": Host(["10.10.10.11"], "External"),
    "*.mesh.wildcard": Host(["10.10.10.12"], "External"),
    "dotted.example.": Host(["3.3.3.3"], "External"),
    "dotted.ns1.svc.cluster.local.": Host(["3.3.3.4"], "Kubernetes", "dotted", "ns1"),
    "UPPER.example": Host(["4.4.4.4"], "External"),
    "nothing.example": Host(["not an address", "1.2.3", ""], "External"),
    "half.example": Host(["not an address", "5.5.5.5"], "External"),
}


def seen(table: NameTable, name: str) -> tuple[str, list[str], list[str]] | None:
    """Return (the CNAME's target, IPv4s, IPv6s)."""
    found = table.lookup(name.encode())
    if found is None:
        return None
    v4 = [socket.inet_ntop(socket.AF_INET, ip) for ip in found.addresses(ipv6=False)]
    v6 = [socket.inet_ntop(socket.AF_INET6, ip) for ip in found.addresses(ipv6=True)]
    return found.target.decode(), v4, v6


NAMES: Mapping[str, tuple[str, list[str], list[str]] | None] = {
    "www.google.com.": ("", ["1.1.1.1"], []),
    f"www.google.com.{SEARCH}": ("www.google.com.", ["1.1.1.1"], []),
    "www.example.com.": None,
    "productpage.ns1.svc.cluster.local.": ("", ["9.9.9.9"], []),
    "productpage.ns1.svc.": ("", ["9.9.9.9"], []),
    "productpage.ns1.": ("", ["9.9.9.9"], []),
    "productpage.": ("", ["9.9.9.9"], []),
    f"productpage.ns1.{SEARCH}": ("productpage.ns1.", ["9.9.9.9"], []),
    f"productpage.ns1.svc.{SEARCH}": ("productpage.ns1.svc.", ["9.9.9.9"], []),
    f"productpage.ns1.svc.cluster.local.{SEARCH}": None,
    "productpage.ns1.svc.cluster.": None,
    "details.ns2.svc.cluster.local.": ("", ["11.11.11.11", "13.13.13.13", "12.12.12.12"], []),
    "details.ns2.": ("", ["11.11.11.11", "13.13.13.13", "12.12.12.12"], []),
    "details-alt.ns2.svc.": ("", ["11.11.11.11", "13.13.13.13", "12.12.12.12"], []),
    "details.": None,
    f"details.{SEARCH}": None,
    "far.ns2.svc.other.example.": ("", ["7.7.7.7"], []),
    "far.ns2.": None,
    "dual.localhost.": ("", ["2.2.2.2"], ["2001:db8::2", "::ffff:1.2.3.4", "fe80::1"]),
    "ipv6.localhost.": ("", [], ["2001:db8::6"]),
    "a.wildcard.": ("", ["10.10.10.10"], []),
    "a.b.c.wildcard.": ("", ["10.10.10.10"], []),
    "wildcard.": None,
    f"a.wildcard.{SEARCH}": ("*.wildcard.", ["10.10.10.10"], []),
    "svc.mesh.wildcard.": ("", ["10.10.10.11"], []),
    "other.mesh.wildcard.": ("", ["10.10.10.12"], []),
    "deep.other.mesh.wildcard.": ("", ["10.10.10.12"], []),
    "mesh.wildcard.": ("", ["10.10.10.10"], []),
    "dotted.example.": ("", ["3.3.3.3"], []),
    "dotted.ns1.svc.cluster.local.": None,
    "dotted.ns1.": None,
    "upper.example.": ("", ["4.4.4.4"], []),
    "nothing.example.": None,
    "half.example.": ("", ["5.5.5.5"], []),
    ".": None,
}


@pytest.fixture(scope="module")
def table() -> NameTable:
    return table_of(HOSTS, NAMING)


@pytest.mark.parametrize(("name", "expected"), NAMES.items(), ids=NAMES.keys())
def test_a_name_is_known_by_the_references_rules(
    table: NameTable, name: str, expected: tuple[str, list[str], list[str]] | None
) -> None:
    assert seen(table, name) == expected


def test_the_plain_reading_of_the_rules_agrees_with_the_cases_above() -> None:
    model = Model(NAMING).fill({name: host for name, host in HOSTS.items() if name != "dual.localhost"})
    for name, expected in NAMES.items():
        if not name.startswith("dual"):
            found = model.lookup(name)
            assert (found and found[1:]) == expected


def test_without_a_search_list_there_are_no_expanded_names() -> None:
    table = table_of(HOSTS, Naming.of(namespace="ns1", domain="ns1.svc.cluster.local", search=()))
    assert seen(table, f"www.google.com.{SEARCH}") is None
    assert seen(table, "productpage.ns1.") == ("", ["9.9.9.9"], [])


def test_without_a_domain_a_service_has_its_full_name_alone() -> None:
    table = table_of(HOSTS, Naming.of(namespace="ns1", domain="", search=()))
    assert seen(table, "productpage.ns1.svc.cluster.local.") is not None
    assert seen(table, "productpage.ns1.") is None


@pytest.mark.parametrize(
    ("domain", "expected"),
    [("ns1.svc.cluster.local", "svc.cluster.local"), ("svc.cluster.local", "svc.cluster.local"), ("", "")],
)
def test_the_proxys_namespace_is_no_part_of_the_domain(domain: str, expected: str) -> None:
    assert Naming.of(namespace="ns1", domain=domain, search=()).domain == expected


def test_two_entries_with_one_name_give_it_a_family_each() -> None:
    hosts = {
        "a.ns1.svc.cluster.local": Host(["1.1.1.1"], "Kubernetes", "same", "ns1"),
        "b.ns1.svc.cluster.local": Host(["2001:db8::1"], "Kubernetes", "same", "ns1"),
        "c.ns1.svc.cluster.local": Host(["2.2.2.2"], "Kubernetes", "same", "ns1"),
    }
    assert seen(table_of(hosts, NAMING), "same.ns1.") == ("", ["2.2.2.2"], ["2001:db8::1"])


def test_thousands_of_entries_with_one_name_are_no_work_without_end() -> None:
    hosts = {
        f"h{n}.ns1.svc.cluster.local": Host([f"10.0.{n >> 8}.{n & 255}"], "Kubernetes", "same", "ns1")
        for n in range(1000)
    }
    table = table_of(hosts, NAMING)
    last = max(hosts)
    assert seen(table, "same.ns1.") == ("", list(hosts[last].ips), [])


def test_an_index_of_another_table_is_refused() -> None:
    raw = encoded(HOSTS)
    index = build(raw, NAMING)
    for wrong in (b"", index[:-8], index + bytes(8), bytes(8) + index[8:]):
        with pytest.raises(ValueError, match="index"):
            Index(raw, wrong, NAMING)


def test_index_and_table_together_stay_below_twice_the_tables_bytes() -> None:
    hosts = {
        f"s{n}.n{n % 50}.svc.cluster.local": Host(
            [f"10.0.{n >> 8}.{n & 255}"], "Kubernetes", f"s{n}", f"n{n % 50}"
        )
        for n in range(5000)
    }
    raw = encoded(hosts)
    assert len(raw) + len(build(raw, NAMING)) < 2 * len(raw)


MALFORMED = {
    "cut off": encoded(HOSTS)[:-3],
    "no message": b"\xff\xff\xff",
    "an entry that is a number": b"\x08\x01",
    "a host that is no UTF-8": b"\x0a\x03\x0a\x01\xff",
    "an address that is a number": b"\x0a\x07\x0a\x01a\x12\x02\x08\x01",
    "an entry longer than the table": b"\x0a\x7f\x0a\x01a",
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_table_is_refused_whole(raw: bytes) -> None:
    with pytest.raises(WireError):
        build(raw, NAMING)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_garbage_is_a_table_or_a_wire_error(raw: bytes) -> None:
    try:
        index = build(raw, NAMING)
    except WireError:
        return
    NameTable(raw, index, NAMING).lookup(b"a.b.")


_LABEL = st.sampled_from(["a", "b", "ns1", "ns2", "svc", "cluster", "local", "*", "A", "x-y"])
_NAME = st.lists(_LABEL, min_size=1, max_size=5).map(".".join)
_IP = st.sampled_from(["1.1.1.1", "2.2.2.2", "2001:db8::1", "::2", "bad", ""])
_HOST = st.builds(
    Host,
    st.lists(_IP, max_size=3),
    st.sampled_from(["Kubernetes", "External"]),
    st.sampled_from(["a", "b", "A"]),
    st.sampled_from(["ns1", "ns2"]),
    st.lists(_NAME, max_size=2),
)
_HOSTS = st.dictionaries(
    st.one_of(_NAME, _NAME.map(lambda n: n + ".svc.cluster.local"), _NAME.map(lambda n: n + ".")),
    _HOST,
    max_size=8,
)
_NAMINGS = st.builds(
    lambda domain, search: Naming.of(namespace="ns1", domain=domain, search=search),
    st.sampled_from(["ns1.svc.cluster.local", "", "local"]),
    st.sampled_from([(), ("ns1.svc.cluster.local",), ("a",), ("B.",)]),
)


@given(_HOSTS, _NAMINGS, st.lists(_NAME, min_size=1, max_size=10))
@settings(max_examples=150, deadline=None)
def test_every_lookup_is_what_the_plain_reading_of_the_rules_says(
    hosts: dict[str, Host], naming: Naming, others: list[str]
) -> None:
    table, model = table_of(hosts, naming), Model(naming).fill(hosts)
    asked = {f"{name.lower()}." for name in others} | model.known
    asked |= {f"q.{name}" for name in asked} | {name.replace("*", "q") for name in asked}
    for name in sorted(asked):
        expected = model.lookup(name)
        found = seen(table, name)
        assert (found is None) == (expected is None), name
        if found is not None and expected is not None:
            target, v4, v6 = found
            assert target == expected[1], name
            assert (v4, [socket.inet_pton(socket.AF_INET6, ip) for ip in v6]) == (
                expected[2],
                [socket.inet_pton(socket.AF_INET6, ip) for ip in expected[3]],
            ), name
