import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from google.rpc.status_pb2 import Status

from pilot_agent.security.material import Material
from pilot_agent.security.resource_names import ROOTS, is_roots, material_name
from pilot_agent.security.sds_server import SdsServer
from pilot_agent.security.sds_session import Serving
from pilot_agent.security.sds_wire import SECRET_TYPE, encode_pair, encode_roots
from pilot_agent.security.secret_store import SecretStore
from tests.support.sds_client import SdsClient


@dataclass
class Bench:
    """A server with a store whose questions the test answers."""

    path: str
    stream_limit: int = 50
    asked: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    on_ask: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        self.store = SecretStore(self.ask)
        serving = Serving(store=self.store, encode=encode, material_name=material_name, count=self.count)
        self.server = SdsServer(serving, stream_limit=self.stream_limit)

    def ask(self, name: str) -> None:
        self.asked.append(name)
        if self.on_ask is not None:
            self.on_ask(name)

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        self.counts[name] += int(value)

    def put(self, material: Material) -> None:
        if self.store.put(material):
            self.server.push(material.name)


def encode(name: str, material: Material) -> bytes:
    if is_roots(material.name):
        return encode_roots(name, roots_pem=material.trusted_ca_pem)
    return encode_pair(name, chain_pem=material.certificate_chain_pem, key_pem=material.private_key_pem)


def pair(number: int, name: str = "default", *, left_s: float = 3600.0) -> Material:
    return Material(
        name=name,
        version_info=f"2026-01-01T00:00:00Z/{number}",
        certificate_chain_pem=b"chain %d" % number,
        private_key_pem=b"key %d" % number,
        not_after_unix_s=time.time() + left_s,
    )


def roots(number: int) -> Material:
    return Material(
        name=ROOTS, version_info=f"2026-01-01T00:00:00Z/{number}", trusted_ca_pem=b"roots %d" % number
    )


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end, "not within the deadline"
        pause.wait(0.005)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.chdir(tmp_path)
    made = Bench("./uds/socket")
    made.server.serve(made.path)
    yield made
    made.server.quit(0.0)


@pytest.fixture
def client(bench: Bench) -> Iterator[SdsClient]:
    with SdsClient(bench.path) as made:
        yield made


def test_what_is_at_hand_is_answered_at_once_and_an_ack_is_counted(bench: Bench, client: SdsClient) -> None:
    bench.put(pair(1))
    stream = client.stream()
    stream.names("default")

    response = stream.response()
    assert response.version_info == "2026-01-01T00:00:00Z/1"
    assert response.type_url == SECRET_TYPE
    assert b"key 1" in response.resources[0].value
    assert bench.asked == []
    stream.ack("default")
    eventually(lambda: bench.counts["sds_acks"] == 1)
    assert stream.nothing_waits()


def test_what_is_missing_is_asked_for_once_by_all_streams_and_sent_when_it_comes(
    bench: Bench, client: SdsClient
) -> None:
    streams = [client.stream() for _ in range(5)]
    for stream in streams:
        stream.names("default")
    eventually(lambda: bench.server.streams() == 5 and bench.asked == ["default"])

    bench.put(pair(1))

    for stream in streams:
        assert stream.secrets()["default"].tls_certificate.private_key.inline_bytes == b"key 1"
    assert bench.asked == ["default"]
    assert all(stream.nothing_waits() for stream in streams)


def test_new_material_is_pushed_to_its_subscribers_alone(bench: Bench, client: SdsClient) -> None:
    bench.put(pair(1))
    bench.put(roots(2))
    one, other = client.stream(), client.stream()
    one.names("default")
    other.names(ROOTS)
    assert set(one.secrets()) == {"default"}
    assert set(other.secrets()) == {ROOTS}

    bench.put(pair(3))
    assert one.response().version_info.endswith("/3")
    bench.put(roots(4))
    assert other.secrets()[ROOTS].validation_context.trusted_ca.inline_bytes == b"roots 4"
    assert one.nothing_waits()
    assert other.nothing_waits()


def test_a_name_nobody_knows_is_the_workloads_pair_under_that_name_and_is_pushed_too(
    bench: Bench, client: SdsClient
) -> None:
    bench.put(pair(1))
    stream = client.stream()
    stream.names("default", "another")
    assert list(stream.secrets()) == ["default", "another"]
    bench.put(pair(2))
    assert {s.tls_certificate.private_key.inline_bytes for s in stream.secrets().values()} == {b"key 2"}


def test_a_failure_ends_the_stream_with_its_reason_and_the_next_stream_asks_again(
    bench: Bench, client: SdsClient
) -> None:
    bench.on_ask = lambda name: bench.store.fail(name, "failed to generate workload certificate: no")
    for asked in (1, 2):
        stream = client.stream()
        stream.names("default")
        assert stream.status() == (
            grpc.StatusCode.UNKNOWN,
            "failed to generate secret for default: failed to generate workload certificate: no",
        )
        assert len(bench.asked) == asked


def test_a_failure_does_not_touch_streams_while_a_valid_certificate_is_at_hand(
    bench: Bench, client: SdsClient
) -> None:
    bench.put(pair(1))
    bench.store.fail("default", "CA down")
    stream = client.stream()
    stream.names("default")
    assert set(stream.secrets()) == {"default"}


def test_an_expired_certificate_is_not_handed_out_but_asked_for(bench: Bench, client: SdsClient) -> None:
    bench.put(pair(1, left_s=-1.0))
    bench.on_ask = lambda _name: bench.put(pair(2))
    stream = client.stream()
    stream.names("default")
    assert stream.response().version_info.endswith("/2")


def test_a_name_with_an_empty_part_fails_its_request(bench: Bench, client: SdsClient) -> None:
    stream = client.stream()
    stream.names("file-cert:~/key")
    code, text = stream.status()
    assert code is grpc.StatusCode.UNKNOWN
    assert text.startswith("failed to generate secret for file-cert:~/key: ")


def test_a_first_request_without_node_and_bytes_that_are_no_request_end_the_stream(
    bench: Bench, client: SdsClient
) -> None:
    nameless, broken = client.stream(), client.stream()
    nameless.names("default", node="")
    broken.send(b"\xff\xff")
    assert nameless.status() == (grpc.StatusCode.INVALID_ARGUMENT, "missing node information")
    assert broken.status()[0] is grpc.StatusCode.INTERNAL


def test_a_nack_is_logged_and_counted_and_nothing_is_sent(
    bench: Bench, client: SdsClient, capfd: pytest.CaptureFixture[str]
) -> None:
    bench.put(pair(1))
    stream = client.stream()
    stream.names("default")
    stream.response()
    stream.nack("default", message="bad certificate")
    eventually(lambda: bench.counts["pilot_total_xds_rejects"] == 1)
    assert stream.nothing_waits()
    assert "warn\tads\tADS:SDS: ACK ERROR 1 Internal:bad certificate" in capfd.readouterr().out


def test_a_stale_nonce_is_counted_and_an_added_name_alone_is_answered(
    bench: Bench, client: SdsClient
) -> None:
    bench.put(pair(1))
    bench.put(roots(2))
    stream = client.stream()
    stream.names("default")
    stream.response()
    stream.names("default", ROOTS, nonce="old")
    eventually(lambda: bench.counts["pilot_xds_expired_nonce"] == 1)
    stream.ack("default", ROOTS)
    assert set(stream.secrets()) == {ROOTS}


def test_a_stream_that_envoy_ends_is_over_with_ok_even_while_it_waits(
    bench: Bench, client: SdsClient
) -> None:
    bench.put(roots(1))
    quiet, waiting = client.stream(), client.stream()
    quiet.names(ROOTS)
    quiet.response()
    waiting.names("default")
    eventually(lambda: bench.asked == ["default"])
    quiet.half_close()
    assert quiet.status()[0] is grpc.StatusCode.OK
    waiting.cancel()
    eventually(lambda: bench.server.streams() == 0)


SERVICE = "/envoy.service.secret.v3.SecretDiscoveryService/"


def fetched(client: SdsClient, *names: str, node: str = "a") -> dict[str, Secret]:
    request = DiscoveryRequest(node=Node(id=node), resource_names=names)
    fetch = client.channel.unary_unary(
        f"{SERVICE}FetchSecrets", DiscoveryRequest.SerializeToString, DiscoveryResponse.FromString
    )
    found = {}
    for packed in fetch(request, timeout=5.0).resources:
        secret = Secret()
        assert packed.Unpack(secret)
        found[secret.name] = secret
    return found


def test_fetch_answers_once_and_waits_for_what_is_missing(bench: Bench, client: SdsClient) -> None:
    bench.put(roots(1))
    bench.on_ask = lambda _name: bench.put(pair(2))
    found = fetched(client, "default", ROOTS)
    assert found["default"].tls_certificate.private_key.inline_bytes == b"key 2"
    assert found[ROOTS].validation_context.trusted_ca.inline_bytes == b"roots 1"
    for node, names, code in (("", ["default"], "INVALID_ARGUMENT"), ("a", [], "INVALID_ARGUMENT")):
        with pytest.raises(grpc.RpcError) as refusal:
            fetched(client, *names, node=node)
        assert refusal.value.code().name == code
    bench.on_ask = lambda name: bench.store.fail(name, "no such file")
    with pytest.raises(grpc.RpcError, match="failed to generate secret for file-root:/x: no such file"):
        fetched(client, "file-root:/x")


class DeltaClient:
    """One DeltaSecrets stream as Envoy is one."""

    def __init__(self, client: SdsClient) -> None:
        self._out: queue.SimpleQueue[DeltaDiscoveryRequest | None] = queue.SimpleQueue()
        self.call: Any = client.channel.stream_stream(
            f"{SERVICE}DeltaSecrets",
            DeltaDiscoveryRequest.SerializeToString,
            DeltaDiscoveryResponse.FromString,
        )(iter(self._out.get, None), timeout=20.0)

    def send(self, **members: Any) -> None:
        self._out.put(DeltaDiscoveryRequest(node=Node(id="a"), **members))

    def versions(self) -> dict[str, str]:
        """Return the next response's resources, name to version, and ACK it."""
        response = next(self.call)
        assert response.type_url == SECRET_TYPE
        for resource in response.resources:
            secret = Secret()
            assert resource.resource.Unpack(secret)
            assert secret.name == resource.name
        self.send(response_nonce=response.nonce)
        return {resource.name: resource.version.rpartition("/")[2] for resource in response.resources}

    def close(self) -> None:
        self._out.put(None)


def test_delta_sends_what_is_subscribed_to_and_then_what_changes(bench: Bench, client: SdsClient) -> None:
    bench.put(pair(1))
    bench.put(roots(2))
    stream = DeltaClient(client)
    stream.send(resource_names_subscribe=["default"])
    assert stream.versions() == {"default": "1"}
    stream.send(resource_names_subscribe=[ROOTS])
    assert stream.versions() == {ROOTS: "2"}
    bench.put(pair(3))
    assert stream.versions() == {"default": "3"}
    stream.send(resource_names_unsubscribe=["default"])
    stream.send(resource_names_subscribe=[ROOTS])  # again: it is sent again
    assert stream.versions() == {ROOTS: "2"}
    bench.put(pair(4))
    bench.put(roots(5))
    assert stream.versions() == {ROOTS: "5"}  # and nothing of what was unsubscribed from
    stream.send(response_nonce="x", error_detail=Status(code=13, message="bad"))
    eventually(lambda: bench.counts["pilot_total_xds_rejects"] == 1)
    stream.close()
    assert list(stream.call) == []
    assert stream.call.code() is grpc.StatusCode.OK


def test_a_delta_client_that_comes_back_gets_only_what_it_does_not_have(
    bench: Bench, client: SdsClient
) -> None:
    bench.put(pair(1))
    bench.put(roots(2))
    stream = DeltaClient(client)
    known = {"default": pair(1).version_info, ROOTS: "old"}
    stream.send(resource_names_subscribe=["default", ROOTS], initial_resource_versions=known)
    assert stream.versions() == {ROOTS: "2"}
    bench.put(pair(3))
    assert stream.versions() == {"default": "3"}
    stream.close()


def test_a_delta_stream_without_a_node_or_with_what_cannot_be_made_ends(
    bench: Bench, client: SdsClient
) -> None:
    nobody: Any = client.channel.stream_stream(f"{SERVICE}DeltaSecrets", None, None)(iter([b""]), timeout=5.0)
    with pytest.raises(grpc.RpcError, match="missing node information"):
        next(nobody)
    bench.on_ask = lambda name: bench.store.fail(name, "no")
    stream = DeltaClient(client)
    stream.send(resource_names_subscribe=["file-root:/x"])
    with pytest.raises(grpc.RpcError, match="failed to generate secret for file-root:/x: no"):
        next(stream.call)
    stream.close()


def test_a_stream_above_the_limit_is_refused_and_not_left_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bench = Bench("socket", stream_limit=2)
    bench.server.serve(bench.path)
    bench.put(pair(1))
    with SdsClient(bench.path) as client:
        for _ in range(2):
            stream = client.stream()
            stream.names("default")
            stream.response()
        assert client.stream().status()[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    bench.server.quit(0.0)


def test_two_hundred_secrets_of_two_envoys_are_all_answered_and_all_pushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bench = Bench("socket", stream_limit=1000)
    bench.server.serve(bench.path)
    bench.put(pair(1))
    with SdsClient(bench.path) as one, SdsClient(bench.path) as other:
        streams = [envoy.stream() for envoy in (one, other) for _ in range(200)]
        for number, stream in enumerate(streams):
            stream.names(f"secret-{number % 200}")
        for stream in streams:
            assert stream.response().version_info.endswith("/1")
        bench.put(pair(2))
        for stream in streams:
            assert stream.response().version_info.endswith("/2")
    bench.server.quit(0.0)


def test_at_the_end_the_socket_is_gone_and_streams_end(bench: Bench, client: SdsClient) -> None:
    bench.put(pair(1))
    stream = client.stream()
    stream.names("default")
    stream.response()
    bench.server.quit(1.0)
    assert stream.status()[0] is grpc.StatusCode.OK
    assert not os.path.lexists(bench.path)
