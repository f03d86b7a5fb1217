"""Picks the prober for a configured method."""

from pilot_agent.health.checker import Probe
from pilot_agent.health.probe import Exec, Grpc, HttpGet, Method, TcpSocket
from pilot_agent.health.probers.execute import exec_probe
from pilot_agent.health.probers.http import http_probe
from pilot_agent.health.probers.tcp import tcp_probe


def prober(method: Method, *, default_host: str, source_address: str, timeout_s: float) -> Probe:
    """Return the probe of this method; each call of it is one probe, bounded by `timeout_s`."""
    match method:
        case HttpGet():
            host = method.host or default_host
            return lambda: http_probe(method, host, source_address=source_address, timeout_s=timeout_s)
        case TcpSocket():
            return lambda: tcp_probe(method.host or default_host, method.port, timeout_s=timeout_s)
        case Exec():
            return lambda: exec_probe(method.command, timeout_s=timeout_s)
        case Grpc():
            from pilot_agent.health.probers.grpc_health import grpc_probe  # noqa: PLC0415  # only if wanted

            return lambda: grpc_probe(default_host, method.port, method.service, timeout_s=timeout_s)
