"""Socket addresses of services, from `host:port` texts of ProxyConfig."""

from typing import Any

from pilot_agent.bootstrap.errors import BootstrapError
from pilot_agent.proxyconfig.hostport import decimal, split_host_port

Json = dict[str, Any]  # Any: JSON values


def service_address(what: str, text: str, host_ip: str) -> Json:
    """Return `{"address", "port_value"}`; the host `$(HOST_IP)` becomes `host_ip` where that is not empty.

    Raises:
        BootstrapError: the text is no `host:port`; `what` names it.
    """
    try:
        host, port_text = split_host_port(text)
        port = decimal(port_text)
    except ValueError as error:
        raise BootstrapError.of_config(f'unable to parse {what} address "{text}": {error}') from None
    if host == "$(HOST_IP)" and host_ip:
        host = host_ip
    return {"address": host, "port_value": port}


def tcp_address(host: str, port: int) -> Json:
    """Return the `address` member of a local TCP socket."""
    return {"socket_address": {"protocol": "TCP", "address": host, "port_value": port}}
