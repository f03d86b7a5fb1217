"""What the DNS proxy reads from its surroundings."""

import os
from pathlib import Path
from typing import Final, Self

import msgspec

from pilot_agent.dns import resolv_conf
from pilot_agent.dns.naming import Naming
from pilot_agent.dns.resolv_conf import RESOLV_CONF, ResolvConf
from pilot_agent.environment import Environment
from pilot_agent.log import get_logger
from pilot_agent.proxyconfig import Node, ProxyConfig
from pilot_agent.proxyconfig.hostport import split_host_port

OTHER_RESOLV_CONF: Final = Path("/var/lib/istio/resolv.conf")
"""Name servers where the agent itself is the one of /etc/resolv.conf."""

_DEFAULT_ADDRESS: Final = "localhost:15053"
_TIMEOUT_S: Final = 5.0
_ZERO_MEANS_S: Final = 2.0

_log = get_logger("dns")

FAILED: Final = "failed to start local DNS server"


class DnsError(ValueError):
    """The DNS proxy cannot work as configured; the text is what the user reads."""


class DnsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the DNS proxy. Those of one that is off are what it has when it is switched on."""

    enabled: bool = False  # from the start
    address: str = _DEFAULT_ADDRESS
    before_sync: bool = False  # forward while there is no table, instead of SERVFAIL
    parallel: bool = False  # ask all name servers at once
    timeout_s: float = _TIMEOUT_S  # for each of dial, write and read, at each name server
    namespace: str = ""
    domain: str = ""
    resolv_conf: str = str(RESOLV_CONF)
    other_resolv_conf: str = ""  # empty: none

    @classmethod
    def build(cls, environment: Environment, proxy_config: ProxyConfig, node: Node) -> Self:
        """Read the variables.

        Source: the reference's local DNS server and the agent's options for it.

        Raises:
            DnsError: it is on and resolv.conf cannot be read, or the address is none.
        """
        del proxy_config  # nothing there is about DNS
        address = environment.string("DNS_PROXY_ADDR", _DEFAULT_ADDRESS) or _DEFAULT_ADDRESS
        on_53 = address.endswith(":53")
        enabled = dns_is_on(environment, node)
        if on_53 and os.geteuid() != 0:
            if enabled:
                _log.error(f"DNS_PROXY_ADDR {address} wants root: {_DEFAULT_ADDRESS} is used instead")
            address, on_53 = _DEFAULT_ADDRESS, False
        timeout_s = environment.seconds("DNS_FORWARD_TIMEOUT", _TIMEOUT_S)
        options = cls(
            enabled=enabled,
            address=address,
            before_sync=on_53,
            parallel=environment.boolean("DNS_FORWARD_PARALLEL", default=False),
            timeout_s=timeout_s if timeout_s > 0 else _ZERO_MEANS_S,
            namespace=environment.string("POD_NAMESPACE"),
            domain=node.domain,
            other_resolv_conf=str(OTHER_RESOLV_CONF) if on_53 else "",
        )
        if enabled:
            options.surroundings()  # what is wrong with them is said before anything is started
        return options

    def surroundings(self) -> "Surroundings":
        """Read resolv.conf and resolve the own address as far as that needs no network.

        Raises:
            DnsError: resolv.conf cannot be read, or the address is no host:port.
        """
        try:
            host, port_text = split_host_port(self.address)
            port = int(port_text)
            if not 0 <= port <= 65535:
                raise ValueError(f"port {port} expected=0..65535")
        except ValueError as error:
            raise DnsError(f"{FAILED}: DNS_PROXY_ADDR must be host:port: {error}") from error
        conf = _read(Path(self.resolv_conf))
        servers = conf.name_servers
        other = Path(self.other_resolv_conf)
        if self.other_resolv_conf and other.exists():
            servers = _read(other).name_servers
        return Surroundings(
            listen=tuple((each, port) for each in _hosts(host, conf)),
            name_servers=servers,
            naming=Naming.of(namespace=self.namespace, domain=self.domain, search=conf.search),
        )


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What the files around the proxy say."""

    listen: tuple[tuple[str, int], ...]
    name_servers: tuple[str, ...]
    naming: Naming


def dns_is_on(environment: Environment, node: Node) -> bool:
    """Return whether the DNS proxy runs from the start."""
    captured = environment.boolean("ISTIO_META_DNS_CAPTURE", default=False) and node.role == "sidecar"
    return captured or environment.boolean("ISTIO_META_ENABLE_DNS_SERVER", default=False)


def _hosts(host: str, conf: ResolvConf) -> list[str]:
    """`localhost` is the loopback address of each family that a name server has."""
    if host != "localhost" or not (conf.has_ipv4 or conf.has_ipv6):
        return [host]
    return ["127.0.0.1"] * conf.has_ipv4 + ["::1"] * conf.has_ipv6


def _read(path: Path) -> ResolvConf:
    try:
        return resolv_conf.read(path)
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        raise DnsError(f"{FAILED}: open {path}: {words}") from error
