"""`stats_config`, the two intervals and `stats_sinks`.

Source: the reference's bootstrap, section "stats_config".
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from pilot_agent.environment import duration_s
from pilot_agent.log import get_logger
from pilot_agent.proxyconfig.canonical import duration_text
from pilot_agent.unreadable import UNREADABLE

_log = get_logger()

Json = dict[str, Any]  # Any: JSON values

_ANNOTATION: Final = "sidecar.istio.io/"
_DEFAULT_FLUSH_NANOS: Final = 5 * 10**9
_TAGS_BEFORE: Final = (
    ("cluster_name", r"^cluster(\.(.+);)"),
    (
        "http_conn_manager_prefix",
        r"^http\.(((?:[_.[:digit:]\w]*|[_\[\]aAbBcCdDeEfF[:digit:]\w\:]*));\.)",
    ),
    ("thread_name", r"^server(\.(.+))\.watchdog"),
    ("tcp_prefix", r"^tcp\.((.*?)\.)\w+?$"),
    ("response_code", r"_rq(_(\d{3}))$"),
    ("response_code_class", r"_rq(_(\dxx))$"),
    (
        "http_conn_manager_listener_prefix",
        r"^listener(?=\.).*?\.http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)",
    ),
    ("listener_address", r"^listener\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)"),
    ("mongo_prefix", r"^mongo\.(.+?)\.(collection|cmd|cx_|op_|delays_|decoding_)(.*?)$"),
)
_TAGS_AFTER: Final = (
    ("cache", r"(cache\.(.+?)\.)"),
    ("component", r"(component\.(.+?)\.)"),
    ("tag", r"(tag\.(.+?);\.)"),
    ("wasm_filter", r"(wasm_filter\.(.+?)\.)"),
    ("authz_enforce_result", r"rbac(\.(allowed|denied))"),
    ("authz_dry_run_action", r"(\.istio_dry_run_(allow|deny)_)"),
    ("authz_dry_run_result", r"(\.shadow_(allowed|denied))"),
)
_PREFIXES: Final = ("cluster_manager", "listener_manager", "server", "cluster.xds-grpc", "wasm")
_SUFFIXES: Final = ("rbac.allowed", "rbac.denied", "shadow_allowed", "shadow_denied")
_REGEXPS: Final = (r"vhost\..*\.route\..*",)


def stats_config(
    proxy_config: Mapping[str, Any],  # Any: canonical JSON
    annotations: Mapping[str, str],
    addresses: Sequence[str],
    *,
    metadata_discovery: bool,
    exit_on_zero_active_connections: bool,
) -> Json:
    """Return tags, histogram buckets and the inclusion list."""
    lists = inclusion_lists(
        proxy_config,
        annotations,
        addresses,
        exit_on_zero_active_connections=exit_on_zero_active_connections,
    )
    config: Json = {"use_all_default_tags": False, "stats_tags": _tags(proxy_config, annotations)}
    if buckets := histogram_buckets(annotations):
        config["histogram_bucket_settings"] = buckets
    patterns = [
        {"prefix": "reporter="},
        *({"prefix": "workload_discovery"} for _ in range(metadata_discovery)),
        *({"prefix": text} for text in lists["Prefixes"]),
        *({"suffix": text} for text in lists["Suffixes"]),
        *({"safe_regex": {"regex": text}} for text in lists["Regexps"]),
        {"prefix": "component"},
        {"prefix": "istio"},
    ]
    return config | {"stats_matcher": {"inclusion_list": {"patterns": patterns}}}


def inclusion_lists(
    proxy_config: Mapping[str, Any],
    annotations: Mapping[str, str],
    addresses: Sequence[str],
    *,
    exit_on_zero_active_connections: bool,
) -> dict[str, list[str]]:
    """Return what is included by `Prefixes`, `Suffixes` and `Regexps`: what is configured, then our own.

    An empty entry, as behind a comma at the end, is left out: the reference keeps it, and Envoy refuses it.
    """

    def configured(kind: str) -> list[str]:
        listed = annotations.get(f"{_ANNOTATION}statsInclusion{kind}", "")
        own = proxy_config.get("proxyStatsMatcher", {}).get(f"inclusion{kind}", [])
        return _substituted(filter(None, listed.split(",") if listed else own), addresses)

    active = ["downstream_cx_active"] if exit_on_zero_active_connections else []
    return {
        "Prefixes": [*configured("Prefixes"), *_PREFIXES],
        "Suffixes": [*configured("Suffixes"), *_SUFFIXES, *active],
        "Regexps": [*configured("Regexps"), *_REGEXPS],
    }


def stats_intervals(annotations: Mapping[str, str]) -> Json:
    """Return `stats_flush_interval` and `stats_eviction_interval`, where the annotations give them.

    The reference prints the first in Go's notation (`1m30s`), which Envoy refuses from a minute on; here
    it is always seconds.
    """
    intervals: Json = {}
    flush = _nanos(annotations, "statsFlushInterval")
    if flush is not None:
        intervals["stats_flush_interval"] = duration_text(flush)
    eviction = _nanos(annotations, "statsEvictionInterval")
    if eviction is None:
        return intervals
    every = flush or _DEFAULT_FLUSH_NANOS
    if eviction <= 0 or eviction % every:
        _log.warn(
            f"Invalid {_ANNOTATION}statsEvictionInterval: got {duration_text(eviction)}, "
            f"expected a multiple of the flush interval {duration_text(every)}"
        )
        return intervals
    return intervals | {"stats_eviction_interval": duration_text(eviction)}


def stats_sinks(*, metrics_service: bool, statsd: Json | None) -> list[Json]:
    """Return the sinks: the metrics service's, then statsd's (`statsd` is its socket address)."""
    sinks: list[Json] = []
    if metrics_service:
        sinks.append(
            {
                "name": "envoy.stat_sinks.metrics_service",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.config.metrics.v3.MetricsServiceConfig",
                    "transport_api_version": "V3",
                    "grpc_service": {"envoy_grpc": {"cluster_name": "envoy_metrics_service"}},
                },
            }
        )
    if statsd:
        sinks.append(
            {
                "name": "envoy.stat_sinks.statsd",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.config.metrics.v3.StatsdSink",
                    "address": {"socket_address": statsd},
                },
            }
        )
    return sinks


def extra_stat_tags(proxy_config: Mapping[str, Any], annotations: Mapping[str, str]) -> list[str]:
    """Return the tags of ProxyConfig, then those of the annotation, each once."""
    listed = annotations.get(f"{_ANNOTATION}extraStatTags", "").split(",")
    return [tag for tag in dict.fromkeys([*proxy_config.get("extraStatTags", ()), *listed]) if tag]


def _tags(proxy_config: Mapping[str, Any], annotations: Mapping[str, str]) -> list[Json]:
    extra = ((tag, rf"({tag}=\.=(.*?);\.;)") for tag in extra_stat_tags(proxy_config, annotations))
    return [{"tag_name": name, "regex": regex} for name, regex in (*_TAGS_BEFORE, *extra, *_TAGS_AFTER)]


def _substituted(patterns: Iterable[str], addresses: Sequence[str]) -> list[str]:
    """Return the patterns, one with `{pod_ip}` in it once for each address."""
    return [
        pattern.replace("{pod_ip}", address)
        for pattern in patterns
        for address in (dict.fromkeys(addresses) if "{pod_ip}" in pattern else ("",))
    ]


def histogram_buckets(annotations: Mapping[str, str]) -> list[Json]:
    """Return the buckets of histograms, sorted by prefix; a bad annotation is a warning."""
    text = annotations.get(f"{_ANNOTATION}statsHistogramBuckets", "")
    if not text:
        return []
    try:
        found = msgspec.json.decode(text, type=dict[str, list[float]])
    except UNREADABLE as error:
        _log.warn(f"Failed to unmarshal histogram buckets: {text}: {error}")
        return []
    return [
        {"match": {"prefix": prefix}, "buckets": [_plain(bucket) for bucket in found[prefix]]}
        for prefix in sorted(found)
    ]


def _plain(number: float) -> float:
    return int(number) if number.is_integer() else number


def _nanos(annotations: Mapping[str, str], name: str) -> int | None:
    text = annotations.get(f"{_ANNOTATION}{name}", "")
    if not text:
        return None
    try:
        return round(duration_s(text) * 1e9)
    except ValueError as error:
        _log.warn(f"Failed to parse {name} {text}: {error}")
        return None
