"""ProxyConfig, from its layers (defaults, mesh file, PROXY_CONFIG, annotation, flags) to the final message."""

from pilot_agent.proxyconfig.model import Node, ProxyConfig

__all__ = ["Node", "ProxyConfig"]
