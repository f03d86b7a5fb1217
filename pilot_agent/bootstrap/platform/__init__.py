"""The cloud that the node is on: metadata, locality, and whether it is Kubernetes there."""

from pilot_agent.bootstrap.platform.discovery import discover
from pilot_agent.bootstrap.platform.model import UNKNOWN, Platform

__all__ = ["UNKNOWN", "Platform", "discover"]
