"""HealthActor: is Envoy ready, is the application well, and the HTTP server that says so."""

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from actors.messages.control import EnvoyInventory, PeerRestarted, TreeState
from actors.messages.envoy import Draining, EnvoyCommand, EpochExited, EpochLive, EpochsHeld, EpochStarted
from actors.messages.health import NameTableReceived, WorkloadHealthy, WorkloadUnhealthy
from actors.runtime.actor import RuntimeActor
from actors.runtime.context import Context
from actors.runtime.roles import Role
from actors.tree_page import StatusPage, status_json, tree_samples
from pilot_agent.environment import go_duration
from pilot_agent.health import HealthOptions
from pilot_agent.health.checker import Checker
from pilot_agent.health.extra_checks import DNS_TEXT, GrpcBootstrapCheck
from pilot_agent.health.generations import Generations
from pilot_agent.health.verdict import Verdict
from pilot_agent.log import get_logger
from pilot_agent.status import StatusListener, StatusOptions
from pilot_agent.status.counters import Counters
from pilot_agent.status.exposition import Sample
from pilot_agent.status.listener import adopt, refuse_from_now_on

_log = get_logger()
_health_log = get_logger("healthcheck")
"""
"""
