"""The HTTP server of the status port: probes of the kubelet, metrics, an operator's commands.

Importing this package is cheap and right for the supervisor, which only opens the listener. The server
itself (`pilot_agent.status.server`) is imported in the process that serves, since it needs h11.
"""

from pilot_agent.status.listener import StatusListener, open_listener
from pilot_agent.status.options import StatusOptions

__all__ = ["StatusListener", "StatusOptions", "open_listener"]
