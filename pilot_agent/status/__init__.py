"""The HTTP server of the status port: probes of the kubelet, metrics, an operator's commands.

The supervisor opens the listener (this package is cheap to import); HealthActor serves it with
`pilot_agent.status.server` and `pilot_agent.status.pages`.
"""

from pilot_agent.status.listener import StatusListener, open_listener
from pilot_agent.status.options import StatusOptions

__all__ = ["StatusListener", "StatusOptions", "open_listener"]
