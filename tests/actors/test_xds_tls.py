"""The connection to istiod over TLS: whom it trusts, which name it wants, what it shows."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pilot_agent.xds.options import XdsOptions
from tests.support.fake_istiod import FakeIstiod
from tests.support.small_ca import Authority
from tests.support.waiting import wait_for
from tests.support.xds_messages import CDS, request, response
from tests.support.xds_pair import XdsPair, plaintext_options

SPIFFE_ID = "spiffe://cluster.local/ns/default/sa/x"
Start = Callable[..., XdsPair]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def istiod(authority: Authority) -> Iterator[FakeIstiod]:
    server = FakeIstiod(authority.serving_pair()).start()
    yield server
    server.kill()


@pytest.fixture
def start(authority: Authority, istiod: FakeIstiod, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts both halves with TLS options, changed as the test wants them."""
    started: list[XdsPair] = []

    def make(**changes: Any) -> XdsPair:
        started.append(XdsPair(tls_options(tmp_path, authority, istiod.address, **changes)))
        return started[-1]

    yield make
    for pair in started:
        pair.close()


def tls_options(folder: Path, authority: Authority, address: str, **changes: Any) -> XdsOptions:
    root = folder / "root-cert.pem"
    root.write_text(authority.root_pem)
    settings = {
        "is_plaintext": False,
        "root_path": str(root),
        "root_pem": authority.root_pem.encode(),
        "server_name": "istiod.istio-system.svc",
    }
    return plaintext_options(folder, address, **(settings | changes))


def passes(pair: XdsPair, istiod: FakeIstiod, within_s: float = 10.0) -> Any:
    """Return istiod's side of a stream on which a response came through."""
    envoy = pair.envoy()
    envoy.send(request("delta", CDS, node="n"))
    stream = istiod.next_stream(within_s)
    stream.send(response("delta", CDS, "n1"))
    assert envoy.receive().nonce == "n1"
    return stream


def failed_attempt(pair: XdsPair) -> None:
    pair.envoy().send(request("delta", CDS, node="n"))
    wait_for(
        lambda: pair.upstream.counters.get("istiod_connection_terminations,type=error"),
        what="a failed attempt",
    )


def test_the_server_name_is_verified_instead_of_the_address(start: Start, istiod: FakeIstiod) -> None:
    stream = passes(start(), istiod)
    assert stream.client_names == []
    assert stream.authority == "istiod.istio-system.svc"
    assert stream.metadata["authorization"] == "Bearer good-token"


def test_an_address_without_a_name_of_its_own_is_verified_itself(start: Start, istiod: FakeIstiod) -> None:
    passes(start(server_name=""), istiod)


def test_a_name_that_the_certificate_lacks_is_refused(start: Start, istiod: FakeIstiod) -> None:
    failed_attempt(start(server_name="someone.else"))
    assert istiod.opened == 0


def test_plaintext_is_not_spoken_to_a_tls_server(start: Start, istiod: FakeIstiod) -> None:
    failed_attempt(start(is_plaintext=True))
    assert istiod.opened == 0


def test_a_wrong_root_fails_and_replacing_its_file_works_without_a_restart(
    start: Start, istiod: FakeIstiod, authority: Authority
) -> None:
    wrong = Authority("wrong").root_pem
    pair = start(root_pem=wrong.encode())
    root = Path(pair.options.root_path)
    root.write_text(wrong)
    envoy = pair.envoy()
    envoy.send(request("delta", CDS, node="n"))
    wait_for(
        lambda: pair.upstream.counters.get("istiod_connection_terminations,type=error"),
        what="a failed attempt",
    )
    root.write_text(authority.root_pem)
    istiod.next_stream(30).send(response("delta", CDS, "n1"))
    assert envoy.receive().nonce == "n1"


@pytest.mark.parametrize("content", [None, "", "no certificate"], ids=["gone", "empty", "text"])
def test_a_root_file_that_breaks_while_running_leaves_the_old_roots(
    start: Start, istiod: FakeIstiod, content: str | None
) -> None:
    pair = start()
    root = Path(pair.options.root_path)
    if content is None:
        root.unlink()
    else:
        root.write_text(content)
    passes(pair, istiod)


def test_the_systems_roots_do_not_trust_a_private_istiod(start: Start, istiod: FakeIstiod) -> None:
    failed_attempt(start(root_path="SYSTEM"))
    assert istiod.opened == 0


@pytest.mark.parametrize(("lifetime_s", "is_shown"), [(3600, True), (-60, False)], ids=["valid", "expired"])
def test_a_client_certificate_is_shown_unless_it_has_expired(
    authority: Authority, tmp_path: Path, lifetime_s: float, is_shown: bool
) -> None:
    key, chain = authority.workload_pair(SPIFFE_ID, lifetime_s)
    (tmp_path / "key.pem").write_text(key)
    (tmp_path / "chain.pem").write_text(chain)
    istiod = FakeIstiod(authority.serving_pair(), authority.root_pem.encode()).start()
    options = tls_options(
        tmp_path,
        authority,
        istiod.address,
        client_key_path=str(tmp_path / "key.pem"),
        client_chain_path=str(tmp_path / "chain.pem"),
    )
    pair = XdsPair(options)
    try:
        if is_shown:
            assert passes(pair, istiod).client_names == [SPIFFE_ID]
        else:  # this istiod insists on one
            failed_attempt(pair)
            assert istiod.opened == 0
    finally:
        pair.close()
        istiod.kill()


def test_an_unreadable_client_certificate_is_not_shown_and_the_token_serves(
    start: Start, istiod: FakeIstiod, tmp_path: Path
) -> None:
    (tmp_path / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
    pair = start(client_key_path=str(tmp_path / "none"), client_chain_path=str(tmp_path / "broken.pem"))
    assert passes(pair, istiod).client_names == []


def test_a_missing_key_beside_a_good_certificate_is_a_failed_connection(
    start: Start, istiod: FakeIstiod, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "chain.pem").write_text(authority.workload_pair(SPIFFE_ID)[1])
    pair = start(client_key_path=str(tmp_path / "none"), client_chain_path=str(tmp_path / "chain.pem"))
    pair.envoy().send(request("delta", CDS, node="n"))
    wait_for(lambda: pair.upstream.counters.get("istiod_connection_failures"), what="a failed connection")
    assert istiod.opened == 0


def test_a_tls_1_1_server_is_not_spoken_to(authority: Authority, tmp_path: Path) -> None:
    """gRPC's own minimum is TLS 1.2; asserted on a raw socket, since its server cannot speak less."""
    import socket
    import threading

    seen: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        connection, _ = listener.accept()
        with connection:
            seen.append(connection.recv(4096))

    thread = threading.Thread(target=accept)
    thread.start()
    pair = XdsPair(tls_options(tmp_path, authority, f"127.0.0.1:{listener.getsockname()[1]}"))
    try:
        pair.envoy().send(request("delta", CDS, node="n"))
        thread.join(10)
        assert supported_versions(seen[0]) == [0x0304, 0x0303]
    finally:
        pair.close()
        listener.close()


def supported_versions(client_hello: bytes) -> list[int]:
    """Return the versions that a TLS ClientHello offers (RFC 8446, extension 43)."""
    at = 5 + 4 + 2 + 32
    at += 1 + client_hello[at]
    at += 2 + int.from_bytes(client_hello[at : at + 2], "big")
    at += 1 + client_hello[at]
    end = at + 2 + int.from_bytes(client_hello[at : at + 2], "big")
    at += 2
    while at < end:
        kind, size = (int.from_bytes(client_hello[at + i : at + i + 2], "big") for i in (0, 2))
        body = client_hello[at + 4 : at + 4 + size]
        if kind == 43:
            offered = [int.from_bytes(body[i : i + 2], "big") for i in range(1, len(body), 2)]
            return [version for version in offered if version & 0x0F0F != 0x0A0A]  # without GREASE
        at += 4 + size
    return []
