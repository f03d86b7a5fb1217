"""Is Envoy ready, and is the application well? Decisions are pure; probers and Envoy's admin are the edge."""

from pilot_agent.health.options import HealthOptions

__all__ = ["HealthOptions"]
