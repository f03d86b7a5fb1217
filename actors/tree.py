"""The agent's tree: which actors there are, in which order, with which limits.

What only one actor uses is loaded in its own process, by all of them at the same time.
"""

import importlib
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from actors.runtime import process
from actors.runtime.first_envoy import FirstEnvoy
from actors.runtime.handover import Life
from actors.runtime.roles import Role
from actors.runtime.settings import Settings
from actors.runtime.specs import MIB, ChildSpec
from actors.runtime.supervisor import Supervisor
from actors.runtime.workers import Prestarted
from pilot_agent.dns.options import DnsOptions
from pilot_agent.dns.workers import WORKERS as DNS_WORKERS
from pilot_agent.envoy.launch import FirstPrepared
from pilot_agent.envoy.options import EnvoyOptions
from pilot_agent.security.workers import WORKERS as SECURITY_WORKERS
from pilot_agent.service_manager import ServiceManager
from pilot_agent.wasm.work import WORKERS as WASM_WORKERS
from pilot_agent.xds.options import MESSAGE_LIMIT_BYTES, XdsOptions

_BASE_LIMIT: Final = 96 * MIB
_XDS_LIMIT: Final = 64 * MIB + 5 * MESSAGE_LIMIT_BYTES
"""A message may stand in an xDS actor five times over while it passes (measured)."""
_DNS_LIMIT: Final = 256 * MIB
"""A name table of 20 MiB, 200,000 names, passes."""

CHILD_SPECS: Final = (
    # Names first, as in the reference; with DNS capture off it is left out.
    ChildSpec(role=Role.DNS, actor="actors.dns:DnsActor", quit_s=5.0, private_limit_bytes=_DNS_LIMIT),
    # Then by how long each takes, since Envoy waits for all: TLS to istiod, and the CA's answer, most.
    ChildSpec(
        role=Role.UPSTREAM_XDS,
        actor="actors.upstream_xds:UpstreamXdsActor",
        quit_s=5.0,
        private_limit_bytes=_XDS_LIMIT,
        after_envoy=True,
    ),
    ChildSpec(
        role=Role.CERT,
        actor="actors.cert:CertActor",
        quit_s=5.0,
        private_limit_bytes=_BASE_LIMIT,
        holds_secrets=True,
        after_envoy=True,
    ),
    ChildSpec(
        role=Role.DOWNSTREAM_XDS,
        actor="actors.downstream_xds:DownstreamXdsActor",
        quit_s=5.0,
        private_limit_bytes=_XDS_LIMIT,
        leaves_estate=True,
    ),
    ChildSpec(
        role=Role.SDS,
        actor="actors.sds:SdsActor",
        quit_s=5.0,
        private_limit_bytes=_BASE_LIMIT,
        holds_secrets=True,
        leaves_estate=True,
    ),
    ChildSpec(
        role=Role.ENVOY,
        actor="actors.envoy:EnvoyActor",
        quit_s=math.inf,
        private_limit_bytes=_BASE_LIMIT,
        ends_by_itself=True,
    ),
    ChildSpec(
        role=Role.HEALTH,
        actor="actors.health:HealthActor",
        quit_s=5.0,
        private_limit_bytes=_BASE_LIMIT,
        after_envoy=True,
    ),
)

WORKERS: Final = {
    **DNS_WORKERS,
    **SECURITY_WORKERS,
    **WASM_WORKERS,
    "reflect": "pilot_agent.xds.reflect_worker:reflect",
    "compact-last-known-good": "pilot_agent.xds.known_good.files:compact",
}

SHARED: Final = (
    "glob",
    "h11",
    "pilot_agent.http",
    "pilot_agent.rpc",
    "pilot_agent.security.material",
    "pilot_agent.security.resource_names",
    "pilot_agent.xds.envelope",
    "pilot_agent.xds.memory",
    "pilot_agent.xds.methods",
    "pilot_agent.xds.outcome",
    "pilot_agent.xds.pipes",
    "pilot_agent.xds.requests",
    "tenacity",
)
"""What two of the actors use, or more: loaded before the fork, it is in memory once."""

_ENVOY_AFTER: Final = frozenset({Role.SDS, Role.DOWNSTREAM_XDS})


def specs_for(settings: Settings) -> tuple[ChildSpec, ...]:
    """Return the table, with room for the largest messages that these settings let pass."""
    limit = _XDS_LIMIT + 5 * (settings.get(XdsOptions).message_limit_bytes - MESSAGE_LIMIT_BYTES)
    return tuple(
        replace(spec, private_limit_bytes=max(limit, _BASE_LIMIT))
        if spec.private_limit_bytes == _XDS_LIMIT
        else spec
        for spec in CHILD_SPECS
    )


def load_shared() -> None:
    """Complete the image that the actors are forked from."""
    for name in SHARED:
        importlib.import_module(name)


def load_for_successors() -> None:
    """Load what UpstreamXdsActor alone uses: the configuration waits for its successor, 30 ms less.

    Before the first fork, so that the pages stay shared. What is missing, the actor will miss and say.
    """
    with suppress(ImportError):
        importlib.import_module("actors.upstream_xds").load()


def load_all() -> None:
    """Load what all of the actors would, to see that it is there."""
    for spec in CHILD_SPECS:
        spec.load()


def _left_out(settings: Settings) -> frozenset[Role]:
    """Names are not served unless DNS is captured, secrets not where no Envoy asks for them."""
    dns = () if settings.get(DnsOptions).enabled else (Role.DNS,)
    sds = () if settings.get(EnvoyOptions).enabled else (Role.SDS,)
    return frozenset((*dns, *sds))


def run_tree(
    options: Sequence[object],
    *,
    kept: tuple[int, ...] = (),
    prestarted: tuple[Prestarted, ...] = (),
    service_manager: ServiceManager | None = None,
    life: Life | None = None,
    first_envoy: FirstEnvoy | None = None,
) -> int:
    """Be the supervisor of the agent until its end; return the exit status.

    Args:
        options: One settings object of each topic.
        kept: Descriptors that stand in the options and that every actor inherits.
        prestarted: Workers that were forked before the heavy imports.
        service_manager: Who is told that the agent is up.
        life: How this program was started, and what it took over.
        first_envoy: The Envoy that was spawned before the heavy imports.
    """
    load_shared()
    load_for_successors()
    process.one_arena()
    process.name_process("pilot-agent")
    process.keep_secrets()  # its /proc/PID/fd leads to every notebook
    prepared = FirstPrepared(None if first_envoy is None else first_envoy.prepared)
    settings = Settings((*options, prepared))
    supervisor = Supervisor(
        specs_for(settings),
        settings=settings,
        workers=WORKERS,
        envoy_after=_ENVOY_AFTER,
        left_out=_left_out(settings),
        kept=kept,
        prestarted=prestarted,
        service_manager=service_manager,
        life=life,
        first_envoy=first_envoy,
    )
    return supervisor.run()
