"""The rules a ProxyConfig must keep; every broken one is named, in the reference's words."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pilot_agent.environment import duration_s, go_duration
from pilot_agent.proxyconfig.errors import ConfigError, several
from pilot_agent.proxyconfig.hostport import check_address, check_port, is_label

Document = Mapping[str, Any]  # Any: canonical JSON

DNS_AUTO_ALLOCATE_WARNING: Final = (
    "'ISTIO_META_DNS_AUTO_ALLOCATE' is deprecated; review "
    "https://istio.io/latest/docs/ops/configuration/traffic-management/dns-proxy/#dns-auto-allocation-v2"
    " for information about replacement functionality"
)

_HTTP2_WINDOW_MIN_BYTES: Final = 65535
_CONNECTION_TIMES: Final = (
    "httpIdleTimeout",
    "httpMaxConnectionDuration",
    "httpDrainTimeout",
    "httpRequestTimeout",
    "httpRequestHeadersTimeout",
    "httpStreamIdleTimeout",
    "httpMaxStreamDuration",
)
_CONNECTION_SIZES: Final = ("listenerPerConnectionBufferLimitBytes", "clusterPerConnectionBufferLimitBytes")
_CONNECTION_LIMITS: Final = (
    "httpMaxConcurrentStreams",
    "listenerConnectionLimit",
    "globalDownstreamConnectionLimit",
)
_CONNECTION_WINDOWS: Final = ("http2InitialStreamWindowSize", "http2InitialConnectionWindowSize")


def validate(document: Document) -> None:
    """Check a ProxyConfig in canonical JSON.

    Raises:
        ConfigError: with all that is wrong, one line each.
    """
    if found := list(problems(document)):
        raise ConfigError(several(found))


def validate_mesh(mesh: Document, default_config: Document) -> None:
    """Check a mesh file: its own members that this agent knows, and its `defaultConfig`.

    Raises:
        ConfigError: with all that is wrong, one line each.
    """
    if found := [*_mesh_problems(mesh), *problems(default_config)]:
        raise ConfigError(several(found))


def problems(document: Document) -> Iterator[str]:
    """Yield one text for each broken rule of a ProxyConfig."""
    if not document.get("configPath"):
        yield "config path must be set"
    if not document.get("binaryPath"):
        yield "binary path must be set"
    if "serviceCluster" in document:
        if not document["serviceCluster"]:
            yield "service cluster must be specified"
    elif "tracingServiceName" not in document:
        yield "oneof service cluster or tracing service name must be specified"
    yield from _drain_problems(document.get("drainDuration", "0s"))
    if not document.get("discoveryAddress"):
        yield "discovery address must be set to the proxy discovery service"
    else:
        yield from _address(document["discoveryAddress"], "invalid discovery address:")
    yield from _tracing_problems(document.get("tracing", {}))
    yield from _service_address_problems(document)
    yield from _checked(check_port, document.get("proxyAdminPort", 0), "invalid proxy admin port:")
    policy = document.get("controlPlaneAuthPolicy", "NONE")
    if policy not in ("NONE", "MUTUAL_TLS"):
        yield f'invalid authentication policy: unrecognized control plane auth policy "{policy}"'
    yield from _checked(check_port, document.get("statusPort", 0), "invalid status port:")
    yield from _key_provider_problems(document.get("privateKeyProvider"))
    yield from _connection_problems(document.get("connectionSettings", {}))


def _drain_problems(text: str) -> Iterator[str]:
    nanos = round(duration_s(text) * 1e9)
    if nanos < 10**6:
        yield "invalid drain duration: duration must be greater than 1ms"
    elif nanos % 10**6:
        yield "invalid drain duration: only durations to ms precision are supported"
    elif nanos % 10**9:
        yield "drain time only supports durations to seconds precision"


def _service_address_problems(document: Document) -> Iterator[str]:
    addresses = (
        ("statsd udp", document.get("statsdUdpAddress")),
        ("envoy metrics service", document.get("envoyMetricsServiceAddress")),
        ("envoy metrics service", document.get("envoyMetricsService", {}).get("address")),
        ("envoy access log service", document.get("envoyAccessLogService", {}).get("address")),
    )
    for what, address in addresses:
        if address:
            yield from _address(address, f'invalid {what} address "{address}":')


def _tracing_problems(tracing: Document) -> Iterator[str]:
    if "lightstep" in tracing:
        prefix, tracer = "invalid lightstep config:", tracing["lightstep"]
        if not tracer.get("address"):
            yield f"{prefix} address is required"
        yield from _address(tracer.get("address", ""), f"{prefix} invalid lightstep address:")
        if not tracer.get("accessToken"):
            yield f"{prefix} access token is required"
    for name in ("zipkin", "datadog"):
        if name in tracing:
            address = tracing[name].get("address", "").replace("$(HOST_IP)", "127.0.0.1", 1)
            yield from _address(address, f"invalid {name} config:")
    for problem in _tls_problems(tracing.get("tlsSettings", {})):
        yield f"invalid tracing TLS config: {problem}"


def _tls_problems(settings: Document) -> Iterator[str]:
    mode, given = settings.get("mode", "DISABLE"), settings.get
    if given("insecureSkipVerify"):
        if mode == "SIMPLE" and (
            given("caCertificates") or given("credentialName") or given("subjectAltNames")
        ):
            yield (
                "cannot specify CaCertificates or CredentialName or SubjectAltNames"
                " when InsecureSkipVerify is set true"
            )
        if mode == "MUTUAL" and (given("caCertificates") or given("subjectAltNames")):
            yield "cannot specify CaCertificates or SubjectAltNames when InsecureSkipVerify is set true"
    if mode in ("SIMPLE", "MUTUAL") and given("credentialName"):
        if any(given(name) for name in ("clientCertificate", "caCertificates", "privateKey", "caCrl")):
            yield "cannot specify client certificates or CA certificate or CA CRL If credentialName is set"
        return
    if mode == "MUTUAL":
        if not given("clientCertificate"):
            yield "client certificate required for mutual tls"
        if not given("privateKey"):
            yield "private key required for mutual tls"


def _key_provider_problems(provider: Document | None) -> Iterator[str]:
    if provider is None:
        return
    prefix = "invalid private key provider configuration:"
    kind = next((name for name in ("cryptomb", "qat") if name in provider), None)
    if kind is None:
        yield f"{prefix} private key provider configuration is required"
        yield f"{prefix} unknown private key provider"
    elif "pollDelay" not in provider[kind]:
        yield f"{prefix} pollDelay is required"
    elif duration_s(provider[kind]["pollDelay"]) == 0:
        yield f"{prefix} pollDelay must be non zero"


def _connection_problems(settings: Document) -> Iterator[str]:
    prefix = "invalid connection settings:"
    for name in _CONNECTION_TIMES:
        if duration_s(settings.get(name, "0s")) < 0:
            yield f"{prefix} {name} must not be negative, got {settings[name]}"
    for name in _CONNECTION_SIZES:
        if settings.get(name, 0) < 0:
            yield f"{prefix} {name} must not be negative, got {settings[name]}"
    for name in _CONNECTION_LIMITS:
        if settings.get(name, 1) <= 0:
            yield f"{prefix} {name} must be greater than 0, got {settings[name]}"
    for name in _CONNECTION_WINDOWS:
        if settings.get(name, _HTTP2_WINDOW_MIN_BYTES) < _HTTP2_WINDOW_MIN_BYTES:
            yield f"{prefix} {name} must be at least {_HTTP2_WINDOW_MIN_BYTES}, got {settings[name]}"


def _mesh_problems(mesh: Document) -> Iterator[str]:
    yield from _checked(check_port, mesh.get("proxyListenPort", 15001), "invalid proxy listen port:")
    timeout_s = duration_s(mesh.get("connectTimeout", "10s"))
    if timeout_s < 0.001:
        yield "invalid connect timeout: duration must be greater than 1ms"
    elif timeout_s > 3600:
        yield f"invalid connect timeout: time {go_duration(timeout_s)} must be >1ms and <1h0m0s"
    for field, domain in (
        ("trustDomain: ", mesh.get("trustDomain", "cluster.local")),
        *(
            (f"trustDomainAliases[{at}], domain `{name}` : ", name)
            for at, name in enumerate(mesh.get("trustDomainAliases", ()))
        ),
    ):
        labels = domain.removesuffix(".").split(".")
        if not domain:
            yield f"{field}empty domain name not allowed"
        elif not all(map(is_label, labels)):
            yield f'{field}trust domain name "{domain}" invalid'


def _address(address: str, prefix: str) -> Iterator[str]:
    return _checked(check_address, address, prefix)


def _checked(check: Callable[[Any], None], value: object, prefix: str) -> Iterator[str]:
    try:
        check(value)
    except ValueError as error:
        yield f"{prefix} {error}"
