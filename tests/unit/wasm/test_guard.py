"""Which addresses and realms are refused."""

import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot_agent.http import ConnectError, Deadline, HttpTimeoutError, Resolved, resolved
from pilot_agent.wasm.challenge import read_challenges
from pilot_agent.wasm.guard import BlockedAddressError, Guard, UnsafeRealmError, check_realms, is_local


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1",
        "fe80::1%eth0",
        "100.100.100.200",
        "fd00:ec2::254",
        "224.0.0.1",
        "ff02::1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::",
        "64:ff9b:1::a9fe:a9fe",
        "no address",
    ],
)
def test_metadata_and_link_local_addresses_are_always_blocked_however_they_are_written(address: str) -> None:
    assert Guard().is_blocked(address)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "8.8.8.8", "fd00::1", "2606::1"]
)
def test_private_loopback_and_public_addresses_are_allowed(address: str) -> None:
    assert not Guard().is_blocked(address)


def test_configured_ranges_are_blocked_too() -> None:
    guard = Guard(("10.0.0.0/8", "2001:db8::/32"))
    assert guard.is_blocked("10.1.2.3")
    assert guard.is_blocked("::ffff:10.1.2.3")
    assert guard.is_blocked("2001:db8::5")
    assert not guard.is_blocked("11.0.0.1")


def found(*addresses: str) -> list[Resolved]:
    return [(socket.AF_INET6 if ":" in one else socket.AF_INET, (one, 80)) for one in addresses]


def test_only_what_is_allowed_of_a_names_addresses_is_tried() -> None:
    guard = Guard(resolve=lambda host, port: found("169.254.169.254", "192.0.2.1", "fe80::1"))
    assert guard.resolve_within(Deadline(5))("some.name", 80) == found("192.0.2.1")


def test_a_name_that_leads_to_blocked_addresses_alone_is_refused() -> None:
    guard = Guard(resolve=lambda host, port: found("169.254.169.254"))
    with pytest.raises(BlockedAddressError, match=r"evil.test is 169.254.169.254: this address is blocked"):
        guard.resolve_within(Deadline(5))("evil.test", 80)


def test_the_systems_own_spellings_of_an_address_are_judged_by_what_they_are() -> None:
    with pytest.raises(BlockedAddressError):
        Guard(resolve=resolved).resolve_within(Deadline(5))("0xa9fea9fe", 80)


def test_a_look_up_that_hangs_ends_with_the_deadline() -> None:
    over = threading.Event()

    def hang(host: str, port: int) -> list[Resolved]:
        over.wait(10)
        raise ConnectError("late")

    try:
        with pytest.raises(HttpTimeoutError, match=r"lookup slow\.test: i/o timeout"):
            Guard(resolve=hang).resolve_within(Deadline(0.05))("slow.test", 80)
    finally:
        over.set()


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer realm="https://auth.docker.io/token",service="registry.docker.io"',
        'Bearer realm="http://auth.example.com/token"',
        'Bearer realm="https://auth.example.com:5000/token", scope="x"',
        'Bearer service="x", realm="https://8.8.8.8/token"',
        'Basic realm="Registry of somebody"',
        'Basic realm="x", Bearer realm="https://auth.example.com/"',
        "Negotiate",
        "",
    ],
)
def test_realms_of_the_outside_world_are_allowed(challenge: str) -> None:
    check_realms([challenge])


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer realm="http://metadata.google.internal/token"',
        'Bearer realm="http://METADATA.google.internal./token"',
        'Bearer realm="http://localhost/token"',
        'Bearer realm="http://localhost:8080/token"',
        'Bearer realm="http://x.localhost/token"',
        'Bearer realm="http://127.0.0.1/token"',
        'Bearer realm="http://127.1/token"',
        'Bearer realm="http://2130706433/"',
        'Bearer realm="http://0x7f000001/"',
        'Bearer realm="http://[::1]/token"',
        'Bearer realm="http://[::ffff:127.0.0.1]/token"',
        'Bearer realm="http://10.0.0.1/token"',
        'Bearer realm="http://192.168.0.1/token"',
        'Bearer realm="http://169.254.169.254/latest/meta-data"',
        'Bearer realm="http://[fe80::1]/token"',
        'Bearer realm="http://0.0.0.0/token"',
        'Bearer realm="file:///etc/passwd"',
        'Bearer realm="ftp://example.com/"',
        'Bearer realm="//example.com/token"',
        'Bearer realm="https:///token"',
        'Bearer realm=""',
        "Bearer realm=http://10.0.0.1/token",
        'bearer REALM = "http://10.0.0.1/token"',
        'Bearer realm="https://auth.example.com/", Bearer realm="http://10.0.0.1/"',
        'Basic realm="http://10.0.0.1/"',
        'Bearer realm="http://[broken/"',
    ],
)
def test_realms_that_lead_inside_are_refused(challenge: str) -> None:
    with pytest.raises(UnsafeRealmError, match="rejected unsafe bearer realm"):
        check_realms([challenge])


def test_every_header_is_looked_at() -> None:
    with pytest.raises(UnsafeRealmError):
        check_realms(['Bearer realm="https://auth.example.com/"', 'Bearer realm="http://127.0.0.1/"'])


@given(st.text(max_size=80))
def test_the_realm_that_is_gone_to_is_one_that_was_looked_at(text: str) -> None:
    """Whatever a registry writes: what the reader takes for a realm, the check has seen."""
    for challenge in read_challenges([f'Bearer {text} realm="http://10.0.0.1/"', f"Bearer realm={text}"]):
        realm = challenge.parameters.get("realm", "")
        if realm.startswith("http://10.0.0.1"):
            with pytest.raises(UnsafeRealmError):
                check_realms([f'Bearer {text} realm="http://10.0.0.1/"', f"Bearer realm={text}"])


def test_challenges_are_read_with_their_parameters() -> None:
    header = 'Basic realm="a, b", Bearer realm="https://x/y",service=z , scope="repository:a:pull,push"'
    basic, bearer = read_challenges([header])
    assert (basic.scheme, basic.parameters) == ("basic", {"realm": "a, b"})
    assert bearer.scheme == "bearer"
    assert bearer.parameters == {"realm": "https://x/y", "service": "z", "scope": "repository:a:pull,push"}


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("[::1]:5000", True),
        ("10.1.1.1", True),
        ("registry.local", True),
        ("gcr.io", False),
        ("8.8.8.8", False),
        ("registry.test:5000", False),
    ],
)
def test_local_is_this_machine_and_private_networks(authority: str, expected: bool) -> None:
    assert is_local(authority) is expected
