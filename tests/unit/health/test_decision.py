"""Readiness as a table: all that is known → ready, or the words that say why not."""

import pytest

from pilot_agent.health.decision import SILENT_LIMIT_S, EnvoyFacts, Facts, refusal

CONFIG = "config not received from XDS server (is Istiod running?): cds updates: 0 successful, 0 rejected"


def envoy(generation: int = 1, **facts: object) -> EnvoyFacts:
    return EnvoyFacts(generation=generation, **{"earned": True} | facts)  # type: ignore[arg-type]


def new(generation: int = 2, refused: str = CONFIG) -> EnvoyFacts:
    return EnvoyFacts(generation=generation, refusal=refused)


SERVES = envoy()
SILENT = envoy(silent_s=SILENT_LIMIT_S)
STOPPED = envoy(process="stopped")
GONE = envoy(process="gone")
ENDING = "signal: terminated"

TABLE: list[tuple[str, Facts, str | None]] = [
    ("nothing was started", Facts(), "Envoy was not started yet"),
    ("Envoy has ended", Facts(last_exit="signal: killed"), "Envoy has ended: signal: killed"),
    ("before the first configuration", Facts(envoys=(new(1),)), CONFIG),
    ("not asked yet", Facts(envoys=(EnvoyFacts(generation=1),)), "Envoy has not been asked yet"),
    (
        "configuration, but not LIVE",
        Facts(envoys=(new(1, "server is not live, current state is: INITIALIZING"),)),
        "server is not live, current state is: INITIALIZING",
    ),
    (
        "workers not started",
        Facts(envoys=(new(1, "workers have not yet started"),)),
        "workers have not yet started",
    ),
    ("it serves", Facts(envoys=(SERVES,)), None),
    ("the new epoch earns, the old one serves", Facts(envoys=(SERVES, new())), None),
    ("the old epoch drains, the new one serves", Facts(envoys=(envoy(1), envoy(2))), None),
    (
        "the new epoch is stopped, the old one serves",
        Facts(envoys=(SERVES, envoy(2, process="stopped"))),
        None,
    ),
    ("the new epoch died, the old one serves", Facts(envoys=(SERVES,), last_exit="exit status 1"), None),
    ("the old epoch has ended, the new one earns", Facts(envoys=(new(),), last_exit="exit status 0"), CONFIG),
    ("the old epoch is stopped, the new one earns", Facts(envoys=(STOPPED, new())), CONFIG),
    (
        "a crash, and the next one earns",
        Facts(envoys=(new(),), last_exit="signal: killed", ever_ready=True),
        CONFIG,
    ),
    ("SIGSTOP", Facts(envoys=(STOPPED,)), "Envoy's process is stopped and serves nothing"),
    ("dead, and nobody has told yet", Facts(envoys=(GONE,)), "Envoy's process has ended"),
    ("its main thread is busy", Facts(envoys=(envoy(silent_s=SILENT_LIMIT_S - 0.1),)), None),
    ("it hangs", Facts(envoys=(SILENT,)), "Envoy's admin interface has not answered for 10 s"),
    (
        "it says that it drains",
        Facts(envoys=(envoy(refusal="server is not live, current state is: DRAINING"),)),
        "server is not live, current state is: DRAINING",
    ),
    (
        "listeners gone",
        Facts(envoys=(SERVES,), listeners_gone=True),
        "Envoy's listeners are gone: connections are refused",
    ),
    (
        "an accepted update has removed all listeners",
        Facts(envoys=(SERVES,), listeners_removed=True),
        "Envoy's listeners are gone: the configuration that it accepted last has none",
    ),
    (
        "drained by an operator",
        Facts(envoys=(SERVES,), drained=True),
        "the listeners were drained: /drain was called",
    ),
    (
        "the certificate that Envoy uses has expired",
        Facts(envoys=(SERVES,), certificate_expired_s=3.0),
        "the workload certificate that Envoy uses expired 3 s ago",
    ),
    (
        "the agent ends, Envoy serves",
        Facts(envoys=(SERVES,), terminated=ENDING),
        f"server is terminated: {ENDING}",
    ),
    (
        "the agent ends, latched",
        Facts(terminated=ENDING, latch=True, ever_ready=True),
        f"server is terminated: {ENDING}",
    ),
    ("latched, Envoy dead", Facts(latch=True, ever_ready=True, last_exit="signal: killed"), None),
    ("latched, certificate expired", Facts(latch=True, ever_ready=True, certificate_expired_s=9), None),
    ("the latch before the first success", Facts(latch=True, envoys=(new(1),)), CONFIG),
    ("the latch at the first success", Facts(latch=True, envoys=(SERVES,), listeners_gone=True), None),
    ("Envoy is disabled", Facts(envoy_disabled=True), None),
    (
        "Envoy is disabled, the agent ends",
        Facts(envoy_disabled=True, terminated=ENDING),
        f"server is terminated: {ENDING}",
    ),
    (
        "the gRPC bootstrap is missing",
        Facts(envoys=(SERVES,), bootstrap_refusal="failed loading x"),
        "failed loading x",
    ),
    (
        "no name table yet",
        Facts(envoys=(SERVES,), name_table_missing=True),
        "istio DNS capture is turned ON and DNS lookup table is not ready yet",
    ),
    (
        "several reasons: Envoy's is told",
        Facts(envoys=(STOPPED,), name_table_missing=True, drained=True),
        "Envoy's process is stopped and serves nothing",
    ),
    (
        "latched, and no name table",
        Facts(latch=True, ever_ready=True, name_table_missing=True),
        "istio DNS capture is turned ON and DNS lookup table is not ready yet",
    ),
]


@pytest.mark.parametrize(("facts", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_readiness(facts: Facts, expected: str | None) -> None:
    assert refusal(facts) == expected


def test_what_leaves_envoy_serving_is_no_fact_at_all() -> None:
    """A later NACK, istiod or the CA away, an actor in a crash loop cannot even be said here."""
    words = ("nack", "reject", "istiod", "ca_", "actor", "restart", "xds")
    assert not [name for name in Facts.__struct_fields__ for word in words if word in name]
