"""Puts together what `/status` says, out of what the supervisor and the actors reported. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from actors.messages.control import ActorState, TreeState
from pilot_agent.health.verdict import Verdict
from pilot_agent.status.document import (
    ActorRow,
    CertificateRow,
    EnvoyRow,
    Event,
    LastKnownGoodRow,
    ProbeRow,
    StatusDocument,
    WorkloadRow,
    XdsRow,
)
from pilot_agent.status.exposition import series

_COUNTED: Final = (
    "envoy_restarts",
    "hot_restart_failed",
    "hot_restart_refused",
    "hot_restarts",
    "istiod_connection_failures",
    "istiod_connection_terminations",
    "num_failed_outgoing_requests",
    "num_outgoing_requests",
)
"""What is worth a place on the page; the whole is on the metrics page."""


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """All that the page is made of."""

    now_unix_s: float
    started_unix_s: float
    agent_version: str
    ready: bool
    reason: str
    startup_s: float
    supervisor_pid: int
    tree: TreeState
    tree_age_s: float  # since the supervisor sent it
    envoys: tuple[EnvoyRow, ...]
    workload: Verdict | None  # None: no application probe is configured
    probes: tuple[ProbeRow, ...]
    events: tuple[Event, ...]


def document(situation: Situation) -> StatusDocument:
    """Return the page's content."""
    tree = situation.tree
    notes = _notes(tree)
    counters = _counters(tree)
    workload = situation.workload
    return StatusDocument(
        agent_version=situation.agent_version,
        generated_unix_s=situation.now_unix_s,
        started_unix_s=situation.started_unix_s,
        ready=situation.ready,
        reason=situation.reason,
        startup_s=situation.startup_s,
        pss_bytes=tree.supervisor_pss_bytes + sum(actor.pss_bytes for actor in tree.actors),
        supervisor_pid=situation.supervisor_pid,
        supervisor_pss_bytes=tree.supervisor_pss_bytes,
        actors=tuple(_actor(actor, situation.tree_age_s) for actor in tree.actors),
        envoys=situation.envoys,
        certificates=tuple(_certificates(notes.get("certificate", {}))),
        xds=tuple(_xds(notes.get("xds", {}), counters)),
        last_known_good=_last_known_good(tree),
        workload=None if workload is None else WorkloadRow(health=workload.health, message=workload.message),
        probes=situation.probes,
        counters={key: value for key, value in sorted(counters.items()) if key.partition("{")[0] in _COUNTED},
        events=situation.events,
    )


def news(before: TreeState, after: TreeState, now_unix_s: float) -> Iterator[Event]:
    """Yield what has happened between two reports of the supervisor's."""
    known = {actor.role: actor for actor in before.actors}
    for actor in after.actors:
        past = known.get(actor.role)
        if past is not None and actor.restarts > past.restarts:
            why = f": {actor.last_end}" if actor.last_end else ""
            text = f"actor {actor.role} was started again, {actor.restarts} times now{why}"
            yield Event(at_unix_s=actor.last_end_unix_s or now_unix_s, kind="actor", level="warn", text=text)
    if before.actors:
        yield from _noted(_notes(before), _notes(after), now_unix_s)


def _noted(before: "_Notes", after: "_Notes", now_unix_s: float) -> Iterator[Event]:
    for name, facts in after.get("certificate", {}).items():
        serial = facts.get("serial", "")
        if serial and serial != before.get("certificate", {}).get(name, {}).get("serial"):
            text = f"certificate {name} has the serial number {serial}"
            yield Event(at_unix_s=_number(facts, "created") or now_unix_s, kind="certificate", text=text)
    for name, facts in after.get("xds", {}).items():
        at = facts.get("nack_at", "")
        if at and at != before.get("xds", {}).get(name, {}).get("nack_at"):
            text = f"Envoy rejected {name}: {facts.get('nack', '')}"
            yield Event(at_unix_s=_number(facts, "nack_at"), kind="xds", level="error", text=text)


_Notes = dict[str, dict[str, dict[str, str]]]  # topic → name → fact → text


def _notes(tree: TreeState) -> _Notes:
    found: _Notes = {}
    for actor in tree.actors:
        for path, text in actor.notes.items():
            topic, _, rest = path.partition("/")
            name, _, fact = rest.rpartition("/")
            found.setdefault(topic, {}).setdefault(name, {})[fact] = text
    return found


def _counters(tree: TreeState) -> dict[str, float]:
    found: dict[str, float] = {}
    for actor in tree.actors:
        for key, value in actor.counters.items():
            found[key] = found.get(key, 0.0) + value
    return found


def _actor(actor: ActorState, tree_age_s: float) -> ActorRow:
    age_s = actor.heartbeat_age_s
    return ActorRow(
        name=actor.role,
        pid=actor.pid,
        state="ready" if actor.ready else "starting" if actor.pid else "down",
        restarts=actor.restarts,
        heartbeat_age_s=round(age_s + tree_age_s, 3) if age_s >= 0 else -1.0,
        pss_bytes=actor.pss_bytes,
        private_bytes=actor.private_bytes,
        descriptors=actor.descriptors,
        threads=actor.threads,
        mailbox_depth=actor.mailbox_depth,
        last_end=actor.last_end,
        last_end_unix_s=actor.last_end_unix_s,
    )


def _certificates(notes: Mapping[str, Mapping[str, str]]) -> Iterable[CertificateRow]:
    for name, facts in sorted(notes.items()):
        yield CertificateRow(
            resource_name=name,
            serial_number=facts.get("serial", ""),
            issuer=facts.get("issuer", ""),
            not_before_unix_s=_number(facts, "not_before") or _number(facts, "created"),
            not_after_unix_s=_number(facts, "not_after"),
            rotation_unix_s=_number(facts, "rotate_at"),
        )


def _xds(notes: Mapping[str, Mapping[str, str]], counters: Mapping[str, float]) -> Iterable[XdsRow]:
    for name, facts in sorted(notes.items()):
        yield XdsRow(
            type=name,
            version=facts.get("version", ""),
            accepted_unix_s=_number(facts, "accepted_at"),
            pushed_version=facts.get("pushed", ""),
            pushed_unix_s=_number(facts, "pushed_at"),
            resources=int(_number(facts, "resources")),
            acks=int(counters.get(series("xds_acks", type=name), 0)),
            nacks=int(counters.get(series("xds_nacks", type=name), 0)),
            last_nack=facts.get("nack", ""),
            last_nack_unix_s=_number(facts, "nack_at"),
        )


def _last_known_good(tree: TreeState) -> LastKnownGoodRow | None:
    gauges = {key: value for actor in tree.actors for key, value in actor.gauges.items()}
    written_unix_s = gauges.get("xds_last_known_good_written_unix_s")
    if written_unix_s is None:
        return None
    return LastKnownGoodRow(
        written_unix_s=written_unix_s,
        size_bytes=int(gauges.get("xds_last_known_good_bytes", 0)),
        serving_streams=int(gauges.get("xds_last_known_good_serving", 0)),
    )


def _number(facts: Mapping[str, str], name: str) -> float:
    try:
        return float(facts.get(name, "") or 0.0)
    except ValueError:
        return 0.0
