"""What the environment says about Wasm modules."""

from pathlib import Path
from typing import Final, Self

import msgspec

from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import Node, ProxyConfig
from pilot_agent.security.os_roots import os_bundle

DIRECTORY: Final = "var/lib/istio/data"


class WasmOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the conversion and of the cache. Goes to the worker with each piece of work."""

    enabled: bool = True
    directory: str  # of the cache; absolute, since Envoy gets paths below it
    insecure_registries: tuple[str, ...] = ()  # host or host:port; "*" is all
    module_expiry_s: float = 86_400.0
    purge_interval_s: float = 3600.0
    request_timeout_s: float = 15.0
    request_attempts: int = 5
    max_binary_bytes: int = 256 << 20
    blocked_cidrs: tuple[str, ...] = ()
    keeps_last_good: bool = True  # ours: where a module cannot be had, the filter before it goes on
    docker_config_path: str = ""  # credentials where a plugin brings none
    roots_path: str = ""  # trust anchors for https; empty: OpenSSL's own place

    @classmethod
    def build(cls, environment: Environment, proxy_config: ProxyConfig, node: Node) -> Self:
        """Read the variables. Source: the reference's environment, Wasm."""
        del proxy_config, node
        return cls(
            enabled=environment.boolean("ISTIO_AGENT_ENABLE_WASM_REMOTE_LOAD_CONVERSION", default=True),
            directory=str(Path(DIRECTORY).absolute()),
            insecure_registries=_listed(environment.string("WASM_INSECURE_REGISTRIES")),
            module_expiry_s=environment.seconds("WASM_MODULE_EXPIRY", 86_400.0),
            purge_interval_s=environment.seconds("WASM_PURGE_INTERVAL", 3600.0),
            request_timeout_s=environment.seconds("WASM_HTTP_REQUEST_TIMEOUT", 15.0),
            request_attempts=environment.integer("WASM_HTTP_REQUEST_MAX_RETRIES", 5),
            max_binary_bytes=environment.integer("ISTIO_WASM_MAX_BINARY_SIZE_BYTES", 256 << 20),
            blocked_cidrs=_cidrs(environment),
            keeps_last_good=environment.switch("WASM_LAST_KNOWN_GOOD", default=True),
            docker_config_path=_docker_config(environment),
            roots_path=os_bundle(),
        )

    def is_insecure(self, authority: str) -> bool:
        """Return whether certificates are not verified for URLs with this host, or host:port."""
        return any(one in ("*", authority) for one in self.insecure_registries)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(one for one in (part.strip() for part in text.split(",")) if one)


def _cidrs(environment: Environment) -> tuple[str, ...]:
    name = "BLOCKED_CIDRS_IN_WASM_FETCH"
    listed = _listed(environment.string(name))
    if not listed:
        return ()
    import ipaddress  # noqa: PLC0415  # few ask for it

    kept = []
    for text in listed:
        try:
            kept.append(str(ipaddress.ip_network(text, strict=False)))
        except ValueError as error:
            environment.warnings.append(f"{name}: entry {text!r} is skipped: {error}")
    return tuple(kept)


def _docker_config(environment: Environment) -> str:
    """Return where the registry library of the reference looks; empty if there is no such place."""
    directory = environment.string("DOCKER_CONFIG")
    home = environment.string("HOME")
    if not directory and home:
        directory = f"{home}/.docker"
    return f"{directory}/config.json" if directory else ""
