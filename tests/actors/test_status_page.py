"""The status document out of what supervisor and actors report."""

import msgspec

from actors.messages.control import ActorState, TreeState
from actors.status_page import Situation, document, news
from pilot_agent.health.verdict import Verdict
from pilot_agent.status.document import LastKnownGoodRow

NOTES = {
    "certificate/default/serial": "abc",
    "certificate/default/issuer": "O=cluster.local",
    "certificate/default/not_before": "100.0",
    "certificate/default/not_after": "200.0",
    "certificate/default/rotate_at": "150.0",
    "xds/LDS/version": "v1",
    "xds/LDS/accepted_at": "90.0",
    "xds/LDS/pushed": "v2",
    "xds/LDS/pushed_at": "95.0",
    "xds/LDS/resources": "3",
    "xds/LDS/nack": "bad address",
    "xds/LDS/nack_at": "96.0",
}


def actor(role: str, **fields: object) -> ActorState:
    values = {
        "pid": 7,
        "incarnation": 1,
        "restarts": 0,
        "ready": True,
        "heartbeat_age_s": 0.5,
        "pss_bytes": 1000,
        "private_bytes": 500,
        "descriptors": 4,
        "threads": 2,
        "mailbox_depth": 0,
    } | fields
    return ActorState(role=role, **values)  # type: ignore[arg-type]


def tree(*actors: ActorState) -> TreeState:
    return TreeState(actors=actors, supervisor_pss_bytes=100)


def situation(state: TreeState, **fields: object) -> Situation:
    values = {
        "now_unix_s": 110.0,
        "started_unix_s": 50.0,
        "agent_version": "1",
        "ready": True,
        "reason": "",
        "startup_s": 1.0,
        "supervisor_pid": 1,
        "tree_age_s": 0.25,
        "envoys": (),
        "workload": None,
        "probes": (),
        "events": (),
    } | fields
    return Situation(tree=state, **values)  # type: ignore[arg-type]


def test_actors_certificate_and_configuration_are_rows() -> None:
    counters = {
        'xds_acks{type="LDS"}': 4.0,
        'xds_nacks{type="LDS"}': 1.0,
        "hot_restarts": 2.0,
        "scrapes_total": 9.0,
    }
    state = tree(actor("cert", notes=NOTES, counters=counters), actor("sds", pid=0, ready=False))
    made = document(situation(state, workload=Verdict(health="unhealthy", message="status 500")))
    assert [(row.name, row.state, row.heartbeat_age_s) for row in made.actors] == [
        ("cert", "ready", 0.75),
        ("sds", "down", 0.75),
    ]
    assert made.pss_bytes == 2100
    (certificate,) = made.certificates
    assert (certificate.serial_number, certificate.issuer, certificate.rotation_unix_s) == (
        "abc",
        "O=cluster.local",
        150.0,
    )
    (lds,) = made.xds
    assert (lds.type, lds.version, lds.acks, lds.nacks, lds.last_nack) == ("LDS", "v1", 4, 1, "bad address")
    assert made.counters == {"hot_restarts": 2.0}
    assert made.workload is not None
    assert made.workload.message == "status 500"


def test_the_last_known_good_configuration_has_its_row_once_it_is_known() -> None:
    assert document(situation(tree(actor("upstream-xds")))).last_known_good is None
    gauges = {
        "xds_last_known_good_written_unix_s": 90.0,
        "xds_last_known_good_bytes": 4096.0,
        "xds_last_known_good_serving": 2.0,
    }
    made = document(situation(tree(actor("upstream-xds", gauges=gauges)))).last_known_good
    assert made == LastKnownGoodRow(written_unix_s=90.0, size_bytes=4096, serving_streams=2)


def test_damaged_notes_do_no_harm() -> None:
    notes = {"certificate/default/not_after": "soon", "xds/LDS/resources": "", "odd": "x", "": ""}
    made = document(situation(tree(actor("cert", notes=notes))))
    assert made.certificates[0].not_after_unix_s == 0.0
    assert made.xds[0].resources == 0


def test_what_changed_between_two_reports_is_news() -> None:
    before = tree(actor("cert", notes=NOTES), actor("sds"))
    after = tree(
        actor("cert", notes=NOTES | {"certificate/default/serial": "def", "xds/LDS/nack_at": "99.0"}),
        actor("sds", restarts=1, last_end="SIGKILL (out of memory?)", last_end_unix_s=98.0),
    )
    told = [(event.kind, event.level, event.text) for event in news(before, after, 100.0)]
    assert told == [
        ("actor", "warn", "actor sds was started again, 1 times now: SIGKILL (out of memory?)"),
        ("certificate", "info", "certificate default has the serial number def"),
        ("xds", "error", "Envoy rejected LDS: bad address"),
    ]
    assert list(news(after, after, 100.0)) == []


def test_the_document_is_json() -> None:
    made = document(situation(tree(actor("cert", notes=NOTES))))
    assert msgspec.json.decode(msgspec.json.encode(made), type=type(made)) == made
