"""Is this proxy ready? One pure decision over all that is known; None is yes, a text says why not.

Ready means that requests are served now. So a reason is: no generation of Envoy that earned it and
serves, its listeners gone, its certificate expired, the agent draining. No reason is what leaves Envoy
serving: a later update that Envoy rejected, istiod or the CA away, an actor that restarts; those are
for the log, the metrics and the status page, since one bad update must not take a mesh out of service.

The reference latches: what was ready once stays so. `READINESS_LATCH=true` gives that back.
"""

from typing import Final, Literal

import msgspec

from pilot_agent.health.extra_checks import DNS_TEXT

SILENT_LIMIT_S: Final = 10.0
"""Envoy's main thread may be busy for seconds with a large update, while its workers serve."""


class EnvoyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One generation, as it was seen last."""

    generation: int
    earned: bool = False  # LIVE with workers and a complete configuration, at least once
    process: Literal["runs", "stopped", "gone"] = "runs"
    refusal: str = ""  # of its last answer, or why there was none before it had earned readiness
    silent_s: float = 0.0  # for how long its admin interface has not answered, since it earned it


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that readiness depends on."""

    terminated: str = ""  # not empty: the agent is ending, because of this
    drained: bool = False  # an operator has drained the listeners
    latch: bool = False  # READINESS_LATCH
    ever_ready: bool = False
    envoy_disabled: bool = False
    envoys: tuple[EnvoyFacts, ...] = ()  # oldest first
    last_exit: str = ""  # of the Envoy that ended last, in words
    listeners_gone: bool = False  # they were there, and refuse now
    listeners_removed: bool = False  # a sidecar had some of istiod's, and has none now
    certificate_expired_s: float = (
        0.0  # since when the certificate that Envoy uses is expired; 0.0: it is not
    )
    bootstrap_refusal: str = ""  # of the gRPC bootstrap file
    name_table_missing: bool = False  # DNS is on and its first table has not come


def refusal(facts: Facts) -> str | None:
    """Return why the proxy is not ready, or None. The order is the reference's, ours in between."""
    if facts.terminated:
        return f"server is terminated: {facts.terminated}"
    if not facts.envoy_disabled and not (facts.latch and facts.ever_ready):
        text = _envoys(facts)
        if text is not None:
            return text
    if facts.bootstrap_refusal:
        return facts.bootstrap_refusal
    return DNS_TEXT if facts.name_table_missing else None


def _envoys(facts: Facts) -> str | None:
    if not facts.envoys:
        return f"Envoy has ended: {facts.last_exit}" if facts.last_exit else "Envoy was not started yet"
    reasons = [_one(each) for each in reversed(facts.envoys)]
    if None not in reasons:
        return reasons[0]
    if facts.latch:
        return None  # the reference's first success asks for nothing more
    if facts.drained:
        return "the listeners were drained: /drain was called"
    if facts.listeners_gone:
        return "Envoy's listeners are gone: connections are refused"
    if facts.listeners_removed:
        return "Envoy's listeners are gone: the configuration that it accepted last has none"
    if facts.certificate_expired_s > 0:
        return f"the workload certificate that Envoy uses expired {facts.certificate_expired_s:.0f} s ago"
    return None


def _one(envoy: EnvoyFacts) -> str | None:
    if envoy.process == "gone":
        return "Envoy's process has ended"
    if envoy.process == "stopped":
        return "Envoy's process is stopped and serves nothing"
    if envoy.silent_s >= SILENT_LIMIT_S:
        return f"Envoy's admin interface has not answered for {envoy.silent_s:.0f} s"
    if envoy.refusal:
        return envoy.refusal
    return None if envoy.earned else "Envoy has not been asked yet"
