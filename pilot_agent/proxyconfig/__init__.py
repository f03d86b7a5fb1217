"""ProxyConfig, from its layers (defaults, mesh file, environment, annotation, flags) to the message.

loaded = load(Environment(os.environ), flags)
loaded.proxy_config.discovery_address, loaded.node.service_node
"""

from pilot_agent.proxyconfig.errors import ConfigError
from pilot_agent.proxyconfig.flags import ProxyFlags
from pilot_agent.proxyconfig.loader import Loaded, load
from pilot_agent.proxyconfig.model import Node, ProxyConfig

__all__ = ["ConfigError", "Loaded", "Node", "ProxyConfig", "ProxyFlags", "load"]
