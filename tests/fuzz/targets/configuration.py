"""ProxyConfig in its layers, and the downward API's annotations: text that somebody wrote by hand."""

import contextlib
import json

from pilot_agent.environment import Environment
from pilot_agent.environment.duration import duration_s
from pilot_agent.proxyconfig import ConfigError, pod_files
from pilot_agent.proxyconfig.layers import DEFAULTS, with_layer
from pilot_agent.proxyconfig.validation import validate


def target(data: bytes) -> None:
    """Read text as a layer, as a file of annotations, and as values of variables."""
    text = data.decode(errors="surrogateescape")  # as in a variable of the environment
    with contextlib.suppress(ConfigError):
        document = with_layer(DEFAULTS, text)
        assert isinstance(document, dict)
        json.dumps(document)
        validate(document)
    with contextlib.suppress(ValueError):
        pairs = pod_files.parse(text)
        if (annotated := pairs.get("proxy.istio.io/config")) is not None:
            with contextlib.suppress(ConfigError):
                validate(with_layer(DEFAULTS, annotated))
    with contextlib.suppress(ValueError):
        duration_s(text)
    environment = Environment({"X": text})
    environment.integer("X", 1)
    environment.number("X", 1.0)
    environment.boolean("X", default=False)
    environment.seconds("X", 1.0)


def seeds() -> list[bytes]:
    whole = {
        "concurrency": 2,
        "drainDuration": "45s",
        "discoveryAddress": "istiod.istio-system.svc:15012",
        "proxyMetadata": {"ISTIO_META_DNS_CAPTURE": "true"},
        "tracing": {"zipkin": {"address": "$(HOST_IP):9411"}, "sampling": 1.5},
        "proxyStatsMatcher": {"inclusionRegexps": ["a.*"], "inclusionPrefixes": ["b"]},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 2},
        "envoyAccessLogService": {"address": "als:15000", "tlsSettings": {"mode": "SIMPLE"}},
    }
    yaml = "concurrency: 2\ntracing:\n  zipkin: {address: 'zipkin:9411'}\n# note\ndrainDuration: 1m30s\n"
    annotations = f'a="b\\n\\x41\\u00e9"\nproxy.istio.io/config={json.dumps(yaml)}\n'
    return [
        json.dumps(whole).encode(),
        yaml.encode(),
        annotations.encode(),
        b"1h2m3.5s",
        b"- &a [*a, !!int 7]",
    ]
