"""Which cloud the node is on: by CLOUD_PLATFORM, else by what the machine says of itself.

Source: the reference's platform detection. There three probes run at once for 5 s at most; two of them
read files, so here they come one after the other, and only Google's asks the network. Where the machine
does not look like Google's, that question gets a quarter of a second: a metadata server is one hop away.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pilot_agent.bootstrap.platform.aws import aws, looks_like_aws
from pilot_agent.bootstrap.platform.azure import azure, looks_like_azure
from pilot_agent.bootstrap.platform.gcp import gcp, is_gce, looks_like_gce, static_metadata
from pilot_agent.bootstrap.platform.metadata_server import ADDRESS, MetadataServer
from pilot_agent.bootstrap.platform.model import UNKNOWN, Platform
from pilot_agent.environment import Environment
from pilot_agent.log import get_logger
from pilot_agent.proxyconfig.hostport import split_host_port

_log = get_logger()

_LIMIT_S: Final = 5.0
_UNLIKELY_S: Final = 0.25
_AWS_IPV6: Final = "fd00:ec2::254"


def discover(
    environment: Environment,
    *,
    ip_addresses: Sequence[str] = (),
    root: Path = Path("/"),
    server_address: tuple[str, int] | None = None,
) -> Platform:
    """Return the platform; `none` when there is no sign of any.

    Args:
        environment: The agent's variables.
        ip_addresses: Of the node; where all are IPv6, EC2's IPv6 address is asked.
        root: Where `/sys` and `/etc` are.
        server_address: Of the metadata server, instead of the clouds' own.
    """
    named = environment.string("CLOUD_PLATFORM").lower()
    if named == "none":
        return UNKNOWN
    kind = named if named in ("aws", "azure", "gcp") else _detected(environment, root, server_address)
    if kind == "aws":
        ipv6_only = bool(ip_addresses) and all(":" in address for address in ip_addresses)
        return aws(_server(server_address, _AWS_IPV6 if ipv6_only else ADDRESS))
    if kind == "azure":
        return azure(_server(server_address, ADDRESS))
    if kind == "gcp":
        return gcp(environment, _gce_server(environment, server_address), root / "etc/resolv.conf")
    return UNKNOWN


def _detected(environment: Environment, root: Path, server_address: tuple[str, int] | None) -> str:
    system = root / "sys"
    if static_metadata(environment) or environment.string("GCE_METADATA_HOST"):
        kind = "gcp"
    elif looks_like_aws(system):
        kind = "aws"
    elif looks_like_azure(system):
        kind = "azure"
    else:
        limit_s = _LIMIT_S if looks_like_gce(system) else _UNLIKELY_S
        kind = "gcp" if is_gce(_server(server_address, ADDRESS, limit_s)) else ""
    if kind:
        _log.info(f"platform detected is {_NAMES[kind]}")
    return kind


_NAMES: Final = {"aws": "AWS", "azure": "Azure", "gcp": "GCP"}


def _server(given: tuple[str, int] | None, host: str, limit_s: float = _LIMIT_S) -> MetadataServer:
    host, port = given or (host, 80)
    return MetadataServer(host, port, timeout_s=limit_s)


def _gce_server(environment: Environment, given: tuple[str, int] | None) -> MetadataServer:
    text = environment.string("GCE_METADATA_HOST")
    if given or not text:
        return _server(given, ADDRESS)
    try:
        host, port = split_host_port(text)
        return MetadataServer(host, int(port), timeout_s=_LIMIT_S)
    except ValueError:
        return MetadataServer(text.strip("[]"), 80, timeout_s=_LIMIT_S)
