"""How an application is probed: each prober returns None for well, else the text for istiod."""

from pilot_agent.health.probers.choose import prober

__all__ = ["prober"]
