"""Envoy's admin interface, over real sockets."""

from collections.abc import Callable

import pytest

from pilot_agent.envoy.admin import Admin, AdminError, ServerInfo, count_active
from pilot_agent.envoy.live_watch import LiveWatch
from pilot_agent.envoy.model import Generation, Phase, SeenLive
from tests.support.http_peer import HttpPeer, closed_port, reply

INFO = b'{"state": "LIVE", "command_line_options": {"base_id": "73211", "restart_epoch": 3}}'


def admin(peer: HttpPeer) -> Admin:
    return Admin(host="127.0.0.1", port=peer.port)


def always(body: bytes, status: str = "200 OK") -> Callable[[bytes], bytes]:
    return lambda _: reply(status, body)


def target(peer: HttpPeer) -> str:
    return peer.requests[-1].split(b"\r\n")[0].decode()


def test_who_answers_is_read_from_server_info() -> None:
    with HttpPeer(always(INFO)) as peer:
        info = admin(peer).server_info(timeout_s=5)
    assert info == ServerInfo(state="LIVE", base_id=73211, epoch=3)


STRANGE = [b"", b"no JSON", b"[]", b"{}", b'{"state": "LIVE"}', b'{"command_line_options": {"base_id": "x"}}']


@pytest.mark.parametrize("body", STRANGE)
def test_an_answer_that_does_not_say_who_it_is_is_an_error(body: bytes) -> None:
    with HttpPeer(always(body)) as peer, pytest.raises(AdminError, match="/server_info: status 200"):
        admin(peer).server_info(timeout_s=5)


def test_no_answer_is_an_error_and_not_live() -> None:
    nobody = Admin(host="127.0.0.1", port=closed_port())
    with pytest.raises(AdminError, match="connection refused"):
        nobody.server_info(timeout_s=5)
    assert nobody.is_live(timeout_s=5) is False


@pytest.mark.parametrize(
    ("status", "body", "live"),
    [
        ("200 OK", b"LIVE\n", True),
        ("503 Service Unavailable", b"PRE_INITIALIZING\n", False),
        ("503 Service Unavailable", b"DRAINING\n", False),
    ],
)
def test_ready_says_whether_envoy_is_live(status: str, body: bytes, live: bool) -> None:
    with HttpPeer(always(body, status)) as peer:
        assert admin(peer).is_live(timeout_s=5) is live


@pytest.mark.parametrize(
    ("inbound_only", "skip_exit", "query"),
    [
        (True, False, "inboundonly&graceful"),
        (False, False, "graceful"),
        (True, True, "inboundonly&graceful&skip_exit"),
    ],
)
def test_the_drain_call_is_the_reference_s(inbound_only: bool, skip_exit: bool, query: str) -> None:
    with HttpPeer(always(b"", "500 Internal Server Error")) as peer:  # the status does not matter
        admin(peer).drain_listeners(inbound_only=inbound_only, skip_exit=skip_exit, timeout_s=5)
        assert target(peer) == f"POST /drain_listeners?{query} HTTP/1.1"
        assert b"content-type" not in peer.requests[0].lower()


STATS = {
    "an application's": ("listener.0.0.0.0_9080.downstream_cx_active: 3\n", 3),
    "two listeners": (
        "listener.0.0.0.0_80.downstream_cx_active: 1\nlistener.[__]_81.downstream_cx_active: 2\n",
        3,
    ),
    "workers are in the sum already": ("listener.0.0.0.0_80.worker_0.downstream_cx_active: 1\n", 0),
    "the admin": (
        "listener.admin.downstream_cx_active: 1\nlistener.admin.main_thread.downstream_cx_active: 1\n",
        0,
    ),
    "internal": ("listener.envoy_internal_connect_originate.downstream_cx_active: 4\n", 0),
    "no listener": ("http.admin.downstream_cx_active: 1\n", 0),
    "readiness": ("listener.0.0.0.0_15021.downstream_cx_active: 1\n", 0),
    "statistics on IPv6": ("listener.[__]_15090.downstream_cx_active: 1\n", 0),
    "a port that ends like ours": ("listener.0.0.0.0_115090.downstream_cx_active: 1\n", 1),
    "no number": ("listener.0.0.0.0_80.downstream_cx_active: No recorded values\n", 0),
}


@pytest.mark.parametrize(("stats", "active"), STATS.values(), ids=STATS.keys())
def test_which_connections_count(stats: str, active: int) -> None:
    assert count_active(stats, (15021, 15090)) == active


@pytest.mark.parametrize(
    ("body", "active"), [(b"listener.a_1.downstream_cx_active: 2\n", 2), (b"", None), (b"\n", None)]
)
def test_connections_are_asked_with_the_reference_s_filter(body: bytes, active: int | None) -> None:
    with HttpPeer(always(body)) as peer:
        assert admin(peer).active_connections(own_ports=(), timeout_s=2) == active
        assert target(peer) == "GET /stats?usedonly&filter=downstream_cx_active$ HTTP/1.1"


# Watching for LIVE


def generation(epoch: int) -> Generation:
    return Generation(generation=7, epoch=epoch, base_id=73211, admin_port=1, phase=Phase.INITIALIZING, pid=1)


class Envoys:
    """A parent that answers until the child has taken the port over and is LIVE."""

    def __init__(self, live_after: int) -> None:
        self.asked, self._live_after = 0, live_after

    def __call__(self, request: bytes) -> bytes:
        self.asked += 1
        child = self.asked > self._live_after
        if b"/ready" in request:
            return reply("200 OK", b"LIVE\n")
        return reply("200 OK", INFO if child else INFO.replace(b"3}", b"2}"))


def test_a_parent_that_is_live_is_not_taken_for_its_child() -> None:
    envoys = Envoys(live_after=6)
    with HttpPeer(envoys) as peer:
        assert LiveWatch(admin(peer), generation(epoch=3)).run() == SeenLive(generation=7)
    assert envoys.asked > 6


def test_a_watch_that_is_ended_sees_nothing() -> None:
    watch = LiveWatch(Admin(host="127.0.0.1", port=closed_port()), generation(epoch=0))
    watch.end()
    assert watch.run() is None
