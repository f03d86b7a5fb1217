"""The agent's tree: which actors there are, in which order, with which limits."""

import math
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from actors.cert import CertActor
from actors.dns import DnsActor
from actors.downstream_xds import DownstreamXdsActor
from actors.envoy import EnvoyActor
from actors.health import HealthActor
from actors.runtime import process
from actors.runtime.handover import Life
from actors.runtime.roles import Role
from actors.runtime.settings import Settings
from actors.runtime.specs import MIB, ChildSpec
from actors.runtime.supervisor import Supervisor
from actors.runtime.workers import Prestarted
from actors.sds import SdsActor
from actors.upstream_xds import UpstreamXdsActor
from pilot_agent.dns.options import DnsOptions
from pilot_agent.dns.workers import WORKERS as DNS_WORKERS
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
    ChildSpec(role=Role.DNS, actor=DnsActor, quit_s=5.0, private_limit_bytes=_DNS_LIMIT),
    # What Envoy waits for comes first, and the rest while Envoy loads (60 ms before it connects).
    ChildSpec(role=Role.SDS, actor=SdsActor, quit_s=5.0, private_limit_bytes=_BASE_LIMIT, holds_secrets=True),
    ChildSpec(role=Role.DOWNSTREAM_XDS, actor=DownstreamXdsActor, quit_s=5.0, private_limit_bytes=_XDS_LIMIT),
    ChildSpec(
        role=Role.ENVOY,
        actor=EnvoyActor,
        quit_s=math.inf,
        private_limit_bytes=_BASE_LIMIT,
        ends_by_itself=True,
    ),
    ChildSpec(
        role=Role.UPSTREAM_XDS,
        actor=UpstreamXdsActor,
        quit_s=5.0,
        private_limit_bytes=_XDS_LIMIT,
        after_envoy=True,
    ),
    ChildSpec(
        role=Role.CERT,
        actor=CertActor,
        quit_s=5.0,
        private_limit_bytes=_BASE_LIMIT,
        holds_secrets=True,
        after_envoy=True,
    ),
    ChildSpec(
        role=Role.HEALTH, actor=HealthActor, quit_s=5.0, private_limit_bytes=_BASE_LIMIT, after_envoy=True
    ),
)

WORKERS: Final = {
    **DNS_WORKERS,
    **SECURITY_WORKERS,
    **WASM_WORKERS,
    "reflect": "pilot_agent.xds.reflect_worker:reflect",
    "compact-last-known-good": "pilot_agent.xds.known_good.files:compact",
}

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
) -> int:
    """Be the supervisor of the agent until its end; return the exit status.

    Args:
        options: One settings object of each topic.
        kept: Descriptors that stand in the options and that every actor inherits.
        prestarted: Workers that were forked before the heavy imports.
        service_manager: Who is told that the agent is up.
        life: How this program was started, and what it took over.
    """
    process.one_arena()
    process.name_process("pilot-agent")
    process.keep_secrets()  # its /proc/PID/fd leads to every notebook
    settings = Settings(options)
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
    )
    return supervisor.run()
