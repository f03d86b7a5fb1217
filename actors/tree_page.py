"""The supervision tree as the metrics page shows it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from actors.messages.control import ActorState, TreeState
from actors.status_page import Situation, document
from pilot_agent.status.exposition import Sample, series
from pilot_agent.status.process_metrics import process_samples

_EXPIRY_AT: Final = "cert_expiry_unix_s"
_ROOTS: Final = ('"ROOTCA"', '"file-root:')
_IN_SECONDS: Final = {
    _EXPIRY_AT: ("cert_expiry_seconds", 1),
    "xds_last_known_good_written_unix_s": ("xds_last_known_good_age_seconds", -1),
}
"""Gauges that tell a time: what is shown in their place, and whether it is left (1) or has passed (-1)."""


def tree_samples(
    tree: TreeState, *, supervisor_pid: int, age_s: float, now_unix_s: float
) -> Iterator[Sample]:
    """Yield what the supervisor and the actors report: their state, and what each of them counts.

    Args:
        tree: What the supervisor sent last.
        supervisor_pid: Its process.
        age_s: How long ago it sent that.
        now_unix_s: The time it is.

    A gauge that tells a time, such as `cert_expiry_unix_s`, is shown as the seconds until or since then,
    so that it is right at the time of the scrape.
    """
    if tree.supervisor_pss_bytes:
        yield Sample(series="supervisor_pss_bytes", value=tree.supervisor_pss_bytes)
    for actor in tree.actors:
        yield from _actor_samples(actor, age_s)
        for key, value in (actor.counters | actor.gauges).items():
            name, brace, labels = key.partition("{")
            if name not in _IN_SECONDS:
                yield Sample(series=key, value=value)
            elif value:  # 0.0: it never was
                shown, sign = _IN_SECONDS[name]
                yield Sample(series=f"{shown}{brace}{labels}", value=sign * (value - now_unix_s))
    yield from _process_samples(tree, supervisor_pid)


def status_samples(situation: Situation) -> Iterator[Sample]:
    """Yield what the status page shows and nobody counts: epochs, ages, versions."""
    page = document(situation)
    now_s = page.generated_unix_s
    yield Sample(series="ready", value=int(page.ready))
    alive = [each for each in page.envoys if each.state != "ended"]
    yield Sample(series="envoy_generations", value=len(alive))
    if alive:
        yield Sample(series="envoy_epoch", value=alive[-1].epoch)
        yield Sample(series="envoy_uptime_seconds", value=round(now_s - alive[-1].started_unix_s, 3))
    for certificate in page.certificates:
        name = certificate.resource_name
        age_s = now_s - certificate.not_before_unix_s
        yield Sample(series=series("cert_age_seconds", resource_name=name), value=round(age_s, 3))
        if certificate.rotation_unix_s:
            left_s = round(certificate.rotation_unix_s - now_s, 3)
            yield Sample(series=series("cert_rotation_seconds", resource_name=name), value=left_s)
    for each in page.xds:
        if each.accepted_unix_s:
            age_s = round(now_s - each.accepted_unix_s, 3)
            labels = {"type": each.type, "version": each.version}
            yield Sample(series=series("xds_accepted_age_seconds", **labels), value=age_s)


def workload_ends_unix_s(tree: TreeState) -> Iterator[float]:
    """Yield when the certificates end with which this workload identifies itself, as CertActor says."""
    for actor in tree.actors:
        for key, value in actor.gauges.items():
            if key.startswith(_EXPIRY_AT) and not any(roots in key for roots in _ROOTS):
                yield value


def _actor_samples(actor: ActorState, age_s: float) -> Iterator[Sample]:
    values = {
        "actor_restarts_total": actor.restarts,
        "actor_ready": int(actor.ready),
        "actor_pss_bytes": actor.pss_bytes,
        "actor_private_memory_bytes": actor.private_bytes,
        "actor_heartbeat_age_seconds": actor.heartbeat_age_s + age_s if actor.heartbeat_age_s >= 0 else -1.0,
        "actor_mailbox_depth": actor.mailbox_depth,
        "actor_descriptors": actor.descriptors,
    }
    for name, value in values.items():
        yield Sample(series=series(name, actor=actor.role), value=value)


def _process_samples(tree: TreeState, supervisor_pid: int) -> Iterator[Sample]:
    pids = [supervisor_pid, *(actor.pid for actor in tree.actors if actor.pid)]
    resident = tree.supervisor_pss_bytes + sum(actor.pss_bytes for actor in tree.actors)
    descriptors = _descriptors(supervisor_pid) + sum(actor.descriptors for actor in tree.actors)
    return process_samples(pids, main_pid=supervisor_pid, resident_bytes=resident, descriptors=descriptors)


def _descriptors(pid: int) -> int:
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return 0  # the supervisor guards keys and does not let itself be looked into
