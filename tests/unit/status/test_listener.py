"""The listening socket: both families, taken ports, and one socket for all incarnations."""

import os
import socket

import pytest

from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import Node, ProxyConfig
from pilot_agent.status import StatusListener, StatusOptions, open_listener
from pilot_agent.status.listener import adopt, refuse_from_now_on
from tests.support.http_peer import closed_port
from tests.support.status_client import open_client


def test_both_families_are_served_on_one_socket() -> None:
    listener = open_listener(StatusOptions(port=closed_port()))
    assert listener is not None
    with listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            open_client(port, host).close()


def test_a_taken_port_is_one_error_line_and_no_server(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert open_listener(StatusOptions(port=port)) is None
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith(f"\tinfo\tOpening status port {port}")
    assert lines[1].endswith(
        f"\terror\tError listening on status port: listen tcp :{port}: bind: address already in use"
    )


def test_port_0_means_no_server(capfd: pytest.CaptureFixture[str]) -> None:
    assert open_listener(StatusOptions(port=0)) is None
    assert capfd.readouterr().out == ""


def test_connections_wait_while_nobody_serves_and_are_refused_after_the_end() -> None:
    listener = open_listener(StatusOptions(port=closed_port()))
    assert listener is not None
    port = listener.getsockname()[1]
    first = adopt(StatusListener(descriptor=listener.fileno()))
    assert first is not None
    first.close()  # the first incarnation is dead
    with listener, open_client(port) as waiting:
        second = adopt(StatusListener(descriptor=listener.fileno()))
        assert second is not None
        with second:
            accepted, _ = second.accept()
            with accepted:
                accepted.sendall(b"served")
                assert waiting.recv(10) == b"served"
            refuse_from_now_on(second)
        with pytest.raises(ConnectionRefusedError):  # though the first holder's copy is still open
            open_client(port)
        assert os.fstat(listener.fileno())


def test_without_a_listener_there_is_nothing_to_adopt() -> None:
    assert adopt(StatusListener()) is None


def test_the_options_are_read_as_the_reference_reads_them() -> None:
    node = Node(role="sidecar", ip_addresses=("10.0.0.1",), id="a.b", domain="c")

    def build(**variables: str) -> StatusOptions:
        return StatusOptions.build(Environment(variables), ProxyConfig(status_port=15999), node)

    assert build() == StatusOptions(port=15999)
    assert build(ENVOY_PROMETHEUS_PORT="1").envoy_prometheus_port == 1
    assert build(METRICS_LOCALHOST_ACCESS_ONLY="true").metrics_from_loopback_only
    assert not build(DISABLE_ENVOY="true").scrape_envoy
    assert not build(PILOT_AGENT_MERGE_ENVOY_STATS="false").scrape_envoy
