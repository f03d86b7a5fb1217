"""Probe settings: ProxyConfig's readinessProbe, and the probes that the injection took over."""

import contextlib
import json
import math

from pilot_agent.health.probe import ReadinessProbe
from pilot_agent.proxyconfig import ConfigError
from pilot_agent.proxyconfig.canonical import canonical
from pilot_agent.status.app.configuration import AppProbeError, parse_app_probers


def target(data: bytes) -> None:
    """Settings that are taken must be ones that a prober can work with."""
    text = data.decode(errors="surrogateescape")  # as in a variable of the environment
    with contextlib.suppress(AppProbeError):
        for path, prober in parse_app_probers(text).items():
            assert path.startswith("/app-")
            assert math.isfinite(prober.timeout_s)
    try:
        document = canonical("ReadinessProbe", json.loads(text))
    except (ConfigError, ValueError, RecursionError):
        return
    probe = ReadinessProbe.parse(document)
    assert probe.period_s > 0
    assert probe.timeout_s > 0
    assert min(probe.success_threshold, probe.failure_threshold) > 0


def seeds() -> list[bytes]:
    http = {"path": "/x", "port": 80, "scheme": "HTTPS", "httpHeaders": [{"name": "a", "value": "b"}]}
    made = [
        {"httpGet": http, "initialDelaySeconds": 1, "periodSeconds": 2, "timeoutSeconds": 3},
        {"tcpSocket": {"port": 1, "host": "h"}, "failureThreshold": 3},
        {"exec": {"command": ["true", "x"]}},
        {"grpc": {"port": 9, "service": "s"}},
        {"/app-health/app/readyz": {"httpGet": http, "timeoutSeconds": 2}},
        {"/app-health/app/livez": {"tcpSocket": {"port": 8080}}},
        {"/app-lifecycle/app/prestopz": {"grpc": {"port": 1, "service": None}}},
    ]
    return [json.dumps(each).encode() for each in made]
