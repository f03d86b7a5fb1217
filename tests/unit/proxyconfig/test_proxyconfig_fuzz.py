"""No configuration text whatever does more than end the agent with a clear error."""

import contextlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot_agent.bootstrap import BootstrapOptions, Platform, envoy_arguments, render
from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import ConfigError, ProxyFlags, load
from pilot_agent.proxyconfig.canonical import canonical
from pilot_agent.proxyconfig.layers import DEFAULTS, with_layer
from pilot_agent.proxyconfig.schema import ENUMS, MESSAGES
from pilot_agent.proxyconfig.validation import validate

_TEXTS = st.sampled_from(
    ["", "a", "host:1", "$(HOST_IP):9411", "45s", "1m", "-1s", "0", "7", "true", "ä\ud800"]
)
_ODD = (
    st.none() | st.booleans() | st.integers(-1, 70000) | st.floats() | st.lists(_TEXTS, max_size=2) | _TEXTS
)


def values(kind: str, depth: int) -> st.SearchStrategy[Any]:
    """Return what may stand in a field of this kind: mostly right, sometimes not."""
    shape, _, inner = kind.rpartition(" ")
    if shape == "repeated":
        return st.lists(values(inner, depth), max_size=2)
    if shape == "map":
        return st.dictionaries(_TEXTS, values(inner, depth), max_size=2)
    if kind in MESSAGES:
        return messages(kind, depth - 1) if depth else st.just({})
    right: dict[str, st.SearchStrategy[Any]] = {
        "string": _TEXTS,
        "bool": st.booleans(),
        "BoolValue": st.booleans(),
        "Duration": st.sampled_from(["0s", "45s", "1.5s", "-1s", "2h"]),
    }
    known = st.sampled_from(sorted(ENUMS[kind])) if kind in ENUMS else st.integers(-1, 70000)
    return right.get(kind, known)


def messages(name: str, depth: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    fields = {field: values(kind, depth) | _ODD for field, kind in MESSAGES[name].items()}
    return st.fixed_dictionaries({}, optional=fields)


@given(st.text(max_size=60) | st.from_regex(r"[a-zA-Z]{1,4}: ?[-&*!|>{}\[\]0-9a-z_'\": ]{0,20}"))
def test_any_text_is_a_layer_or_a_configuration_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(with_layer(DEFAULTS, text), dict)


@settings(deadline=None)
@given(messages("ProxyConfig"))
def test_any_message_is_a_layer_or_a_configuration_error(raw: dict[str, Any]) -> None:
    with contextlib.suppress(ConfigError):
        validate(with_layer(DEFAULTS, json.dumps(raw)))


_WORDS = st.sampled_from(["a", "b.c", "{pod_ip}", "ä\ud800", ""])
_TLS = messages("ClientTLSSettings").filter(lambda tls: _is_fine("ClientTLSSettings", tls))
_ADDRESSES = st.sampled_from(["host:1", "[2001:db8::1]:65535", "10.0.0.1:80"])
_SERVICES = st.fixed_dictionaries(
    {"address": _ADDRESSES},
    optional={
        "tlsSettings": _TLS,
        "tcpKeepalive": st.fixed_dictionaries({}, optional={"probes": st.just(3), "time": st.just("90s")}),
    },
)
_TRACERS = st.sampled_from(["zipkin", "datadog", "openCensusAgent"])
WELL_FORMED = st.fixed_dictionaries(
    {},
    optional={
        "tracing": st.builds(lambda kind, address: {kind: {"address": address}}, _TRACERS, _ADDRESSES),
        "envoyMetricsService": _SERVICES,
        "envoyAccessLogService": _SERVICES,
        "runtimeValues": st.dictionaries(_WORDS, _WORDS, max_size=3),
        "extraStatTags": st.lists(_WORDS, max_size=3),
        "proxyStatsMatcher": messages("ProxyStatsMatcher").filter(
            lambda matcher: _is_fine("ProxyStatsMatcher", matcher)
        ),
        "proxyMetadata": st.dictionaries(_WORDS, _WORDS, max_size=3),
        "statsCompression": st.booleans(),
        "concurrency": st.integers(0, 64),
        "fileFlushInterval": st.sampled_from(["0.5s", "2s"]),
    },
)


def _is_fine(message: str, raw: dict[str, Any]) -> bool:
    try:
        canonical(message, raw)
    except ConfigError:
        return False
    return True


@settings(deadline=None)
@given(WELL_FORMED)
def test_a_well_formed_message_makes_a_bootstrap_and_a_command_line(raw: dict[str, Any]) -> None:
    environment = Environment({"PROXY_CONFIG": json.dumps(raw)})
    loaded = load(environment, ProxyFlags(), Path("/nonexistent"), read_interfaces=dict)
    options = BootstrapOptions.build(
        environment, loaded, platform=Platform(name="none"), credential_socket=False
    )

    made = msgspec.json.decode(render(options, generation=0))

    assert made["node"]["id"] == loaded.node.service_node
    assert made["node"]["metadata"]["PROXY_CONFIG"] == loaded.proxy_config.document
    assert all(isinstance(argument, str) for argument in envoy_arguments(options, config_file="x"))


def test_deeply_nested_texts_are_refused() -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000, "a: " + "{a: " * 5_000):
        with pytest.raises(ConfigError):
            with_layer(DEFAULTS, text)
