"""Envoy's life: its files, its admin interface, and the decisions from its first start to its end."""

from pilot_agent.envoy.options import EnvoyOptions

__all__ = ["EnvoyOptions"]
