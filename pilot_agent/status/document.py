"""What `/status` says: its JSON, field by field. The schema in `docs/status.schema.json` is made from this.

Times are seconds since the epoch; 0.0 means: not yet, or not known. No secret may ever stand in it.
"""

from typing import Final, Literal

import msgspec

SCHEMA_VERSION: Final = 1
"""Grows when a field is taken away or changes its meaning; new fields may come at any time."""


class ActorRow(msgspec.Struct, frozen=True, kw_only=True):
    """One actor's process, as the supervisor saw it at the last heartbeat."""

    name: str
    pid: int  # 0: not running just now
    state: Literal["ready", "starting", "down"]
    restarts: int
    heartbeat_age_s: float  # since it last answered; -1.0: it has not yet
    pss_bytes: int
    private_bytes: int
    descriptors: int
    threads: int
    mailbox_depth: int
    last_end: str  # how the process before ended; empty: there was none
    last_end_unix_s: float


class EnvoyRow(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of Envoy."""

    generation: int
    epoch: int
    pid: int
    state: Literal["starting", "live", "ready", "draining", "ended"]
    started_unix_s: float
    live_unix_s: float = 0.0
    ready_unix_s: float = 0.0
    ended_unix_s: float = 0.0
    end: str = ""  # "exit status 1", "signal: killed"


class CertificateRow(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate that the workload identifies itself with. Keys are nobody's business."""

    resource_name: str
    serial_number: str  # lower-case hexadecimal
    issuer: str
    not_before_unix_s: float
    not_after_unix_s: float
    rotation_unix_s: float  # when the next one is due


class XdsRow(msgspec.Struct, frozen=True, kw_only=True):
    """One type of istiod's configuration."""

    type: str  # "CDS", "LDS", …
    version: str  # that Envoy accepted last
    accepted_unix_s: float
    pushed_version: str  # that istiod sent last
    pushed_unix_s: float
    resources: int  # of the last response
    acks: int
    nacks: int
    last_nack: str  # Envoy's words
    last_nack_unix_s: float


class LastKnownGoodRow(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration on the disk that Envoy gets while istiod cannot be reached at its start."""

    written_unix_s: float  # when something of it was written last; 0.0: there is none
    size_bytes: int  # as far as this process has written it
    serving_streams: int  # streams of Envoy's that stand on it now; 0: all is live


class ProbeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One probe of the kubelet's that the agent passes on."""

    path: str
    kind: Literal["http", "tcp", "grpc"]
    port: int
    last_status: int = 0  # what its caller was told last; 0: never asked
    last_unix_s: float = 0.0


class WorkloadRow(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on the application that istiod was told (ProxyConfig.readinessProbe)."""

    health: Literal["undefined", "healthy", "unhealthy"]
    message: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened, newest last."""

    at_unix_s: float
    kind: Literal["readiness", "envoy", "actor", "xds", "certificate", "workload", "operator"]
    level: Literal["info", "warn", "error"] = "info"
    text: str = ""


class StatusDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The whole page."""

    schema_version: int = SCHEMA_VERSION
    agent_version: str
    generated_unix_s: float
    started_unix_s: float
    ready: bool
    reason: str  # why not ready; empty when it is
    startup_s: float  # from the agent's start to its first readiness; 0.0: not yet
    pss_bytes: int  # supervisor and actors together
    supervisor_pid: int
    supervisor_pss_bytes: int
    actors: tuple[ActorRow, ...]
    envoys: tuple[EnvoyRow, ...]  # the living and the last that ended, oldest first
    certificates: tuple[CertificateRow, ...]
    xds: tuple[XdsRow, ...]
    last_known_good: LastKnownGoodRow | None = None  # None: it is switched off, or not known yet
    workload: WorkloadRow | None  # None: no application probe is configured
    probes: tuple[ProbeRow, ...]
    counters: dict[str, float]  # hot restarts and what else is counted, as in the metrics
    events: tuple[Event, ...]


def schema() -> dict[str, object]:
    """Return the JSON schema of the document."""
    made: dict[str, object] = msgspec.json.schema(StatusDocument)
    return made


if __name__ == "__main__":
    print(msgspec.json.format(msgspec.json.encode(schema()), indent=2).decode())  # noqa: T201
