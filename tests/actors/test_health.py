"""HealthActor with real sockets: a fake Envoy admin, a fake application, a real client."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from actors.health import HealthActor, HealthNotes
from actors.messages.cert import RotateNow
from actors.messages.control import ActorState, PeerRestarted, TreeState
from actors.messages.envoy import Draining, EnvoyCommand, EpochExited, EpochLive, EpochsHeld, EpochStarted
from actors.messages.health import NameTableReceived, WorkloadHealthy, WorkloadUnhealthy
from actors.runtime.roles import Role
from pilot_agent.health import HealthOptions
from pilot_agent.health.probe import HttpGet, ReadinessProbe
from pilot_agent.status import StatusListener, StatusOptions
from pilot_agent.status.process_metrics import seconds_since_start
from tests.support.context import FakeContext, MemoryNotebook
from tests.support.fake_envoy_admin import READY, FakeEnvoyAdmin
from tests.support.http_peer import HttpPeer, reply
from tests.support.status_client import get, open_client, read_answer

if TYPE_CHECKING:
    import pykka


class Health:
    """Starts HealthActors one after the other on the same listener and notebook."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.notebook = MemoryNotebook()
        self.refs: list[pykka.ActorRef[Any]] = []
        self.sent: list[object] = []
        self.news = threading.Condition()
        self.context = FakeContext(role=Role.HEALTH)

    def start(self, *, scrape_envoy: bool = False, **options: Any) -> None:
        """Start the next incarnation."""
        self.context = FakeContext(
            role=Role.HEALTH,
            incarnation=len(self.refs) + 1,
            notebook=self.notebook,
            options=(
                HealthOptions(probe_host="127.0.0.1", **options),
                StatusOptions(port=self.port, scrape_envoy=scrape_envoy),
                StatusListener(descriptor=self.listener.fileno()),
            ),
            on_send=self._note,
        )
        made = threading.Event()

        def deliver(message: object) -> None:
            assert made.wait(5)
            self.refs[-1].tell(message)

        self.context.deliver = deliver
        self.refs.append(HealthActor.start(self.context))
        made.set()

    def _note(self, _: Role, message: object) -> None:
        with self.news:
            self.sent.append(message)
            self.news.notify_all()

    def tell(self, *messages: object) -> None:
        """Deliver messages and wait until they were taken."""
        for message in messages:
            self.refs[-1].ask(message, timeout=5)

    def crash(self) -> None:
        """Take the actor's thread and server away without letting it put anything in order."""
        actor = self.refs[-1]._actor_weakref()
        assert isinstance(actor, HealthActor)
        if actor._checker is not None:
            actor._checker.close()
        actor._keeper.close()
        listener, actor._listener = actor._listener, None
        if actor._server is not None:
            actor._server._ended.set()
            socket.create_connection(("127.0.0.1", self.port)).close()  # wakes accept
            actor._server.close()
        if listener is not None:
            listener.close()
        self.refs[-1].stop(timeout=5)

    def wait_sent(self, count: int) -> list[object]:
        with self.news:
            assert self.news.wait_for(lambda: len(self.sent) >= count, 10), self.sent
            return list(self.sent)

    def ready(self) -> int:
        return get(self.port, "/healthz/ready").status

    def close(self) -> None:
        for ref in self.refs:
            if ref.is_alive():
                actor = ref._actor_weakref()
                assert isinstance(actor, HealthActor)
                actor.quit(1)
                ref.stop(timeout=5)
        self.listener.close()


@pytest.fixture
def health() -> Iterator[Health]:
    made = Health()
    yield made
    made.close()


@pytest.fixture
def envoy() -> Iterator[FakeEnvoyAdmin]:
    with FakeEnvoyAdmin() as admin:
        yield admin


def started(port: int, generation: int = 1, epoch: int = 0) -> EpochStarted:
    return EpochStarted(generation=generation, epoch=epoch, pid=1, admin_port=port)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "not in time"


def test_readiness_follows_envoy_and_the_first_is_logged_and_measured(
    health: Health, envoy: FakeEnvoyAdmin, capfd: pytest.CaptureFixture[str]
) -> None:
    envoy.stats["listener_manager.workers_started"] = 0
    health.start()
    assert health.ready() == 503
    health.tell(started(envoy.port))
    assert health.ready() == 503
    envoy.stats["listener_manager.workers_started"] = 1
    assert health.ready() == 200
    assert health.ready() == 200
    lines = [line.split("\t", 1)[1] for line in capfd.readouterr().out.splitlines()]
    assert lines[:2] == [
        "warn\tEnvoy proxy is NOT ready: Envoy was not started yet",
        "warn\tEnvoy proxy is NOT ready: workers have not yet started",
    ]
    assert lines[2].startswith("info\tReadiness succeeded in ")
    assert lines[3:] == ["info\tEnvoy proxy is ready"]
    asked = len(envoy.asked)
    assert health.ready() == 200
    assert len(envoy.asked) == asked, "answered from memory"
    took = startup_duration(health)
    envoy.stats["server.state"] = 2
    health.tell(EpochExited(generation=1, epoch=0, status="exit status 1"), started(envoy.port, 2))
    assert health.ready() == 503
    envoy.stats["server.state"] = 0
    assert health.ready() == 200
    assert startup_duration(health) == took, "the first one counts"


def startup_duration(health: Health) -> bytes:
    return (
        get(health.port, "/metrics").body.partition(b"\nistio_agent_startup_duration_seconds ")[2].split()[0]
    )


def test_a_check_beside_envoys_makes_the_whole_unready_and_is_what_the_log_says(
    health: Health, envoy: FakeEnvoyAdmin, capfd: pytest.CaptureFixture[str]
) -> None:
    health.start(dns_expected=True)
    health.tell(started(envoy.port))
    assert health.ready() == 503
    text = "istio DNS capture is turned ON and DNS lookup table is not ready yet"
    assert f"\twarn\tEnvoy proxy is NOT ready: {text}\n" in capfd.readouterr().out
    health.tell(NameTableReceived())
    assert health.ready() == 200


def test_readiness_goes_with_envoy_and_a_new_generation_earns_its_own(
    health: Health, envoy: FakeEnvoyAdmin
) -> None:
    health.start()
    health.tell(started(envoy.port))
    assert health.ready() == 200
    with FakeEnvoyAdmin(READY | {"server.hot_restart_epoch": 1}) as second:
        health.tell(started(second.port, 2, 1))
        assert health.ready() == 200
        assert not second.asked
        health.tell(EpochLive(generation=2, epoch=1))
        wait_until(lambda: len(second.asked) >= 2)
        health.tell(EpochExited(generation=1, epoch=0, status="exit status 0"))
        assert health.ready() == 200
    health.tell(EpochExited(generation=2, epoch=1, status="signal: killed"))
    assert health.ready() == 503


def test_a_restarted_actor_remembers_what_was_earned_and_nobody_is_refused_meanwhile(
    health: Health, envoy: FakeEnvoyAdmin
) -> None:
    health.start()
    health.tell(started(envoy.port))
    assert health.ready() == 200
    get(health.port, "/metrics")
    wait_until(lambda: (kept := health.notebook.restore(HealthNotes)) is not None and kept.counters)
    health.crash()
    envoy.stats = {}  # would not be ready if it were asked
    with open_client(health.port) as between:
        between.sendall(b"GET /healthz/ready HTTP/1.1\r\nHost: a\r\n\r\n")
        health.start()
        assert read_answer(between).status == 200
    page = get(health.port, "/metrics").body
    assert b"\nistio_agent_scrapes_total 2\n" in page
    assert b"\nistio_agent_startup_duration_seconds " in page
    health.tell(EpochsHeld(started=(started(envoy.port),), live_generations=(1,), draining=False))
    assert health.ready() == 200
    health.tell(EpochsHeld(started=(), live_generations=(), draining=False))
    assert health.ready() == 503, "it ended while nobody looked"


def test_draining_refuses_new_clients_tells_the_others_and_outlives_a_restart(
    health: Health, envoy: FakeEnvoyAdmin, capfd: pytest.CaptureFixture[str]
) -> None:
    health.start()
    health.tell(started(envoy.port))
    with open_client(health.port) as client:
        request = b"GET /healthz/ready HTTP/1.1\r\nHost: a\r\n\r\n"
        client.sendall(request)
        assert read_answer(client).status == 200
        health.tell(Draining(cause="signal: terminated"))
        with pytest.raises(ConnectionRefusedError):
            open_client(health.port)
        client.sendall(request)
        assert read_answer(client).status == 503
    out = capfd.readouterr().out
    assert out.count("\tinfo\tStatus server has successfully terminated\n") == 1
    assert "\twarn\tEnvoy proxy is NOT ready: server is terminated: signal: terminated\n" in out
    health.refs[-1].stop(timeout=5)
    health.start()
    assert health.context.is_ready or health.refs[-1].ask(NameTableReceived(), timeout=5) is None
    with pytest.raises(ConnectionRefusedError):
        open_client(health.port)


def test_without_envoy_and_with_dns_capture_the_name_table_decides(
    health: Health, capfd: pytest.CaptureFixture[str]
) -> None:
    health.start(envoy_disabled=True, dns_expected=True)
    assert health.ready() == 503
    health.tell(NameTableReceived())
    assert health.ready() == 200
    text = "istio DNS capture is turned ON and DNS lookup table is not ready yet"
    assert f"Envoy proxy is NOT ready: {text}" in capfd.readouterr().out


def probing(application: HttpPeer, **settings: Any) -> ReadinessProbe:
    return ReadinessProbe(method=HttpGet(port=application.port), period_s=0.05, **settings)


def test_the_application_is_reported_at_each_change_and_envoy_comes_first(
    health: Health, envoy: FakeEnvoyAdmin
) -> None:
    status = ["200 OK"]
    with HttpPeer(lambda _: reply(status[0])) as application:
        envoy.stats["server.state"] = 2
        health.start(probe=probing(application))
        assert health.wait_sent(1) == [WorkloadUnhealthy(message="Envoy was not started yet")]
        assert not application.requests
        health.tell(started(envoy.port))
        envoy.stats["server.state"] = 0
        assert health.wait_sent(2)[1:] == [WorkloadHealthy()]
        status[0] = "500 Internal Server Error"
        text = "status code was not from [200,400), bad code 500"
        assert health.wait_sent(3)[2:] == [WorkloadUnhealthy(message=text)]
        health.tell(PeerRestarted(role="upstream-xds", incarnation=2))
        assert health.wait_sent(4)[3:] == [WorkloadUnhealthy(message=text)]
        health.tell(PeerRestarted(role="sds", incarnation=2))
        assert len(health.sent) == 4


def test_a_restarted_checker_measures_before_it_says_anything(health: Health) -> None:
    with HttpPeer(lambda _: reply("200 OK")) as application:
        health.start(probe=probing(application), envoy_disabled=True)
        assert health.wait_sent(1) == [WorkloadHealthy()]
        health.crash()
        before = len(application.requests)
        health.start(probe=probing(application, initial_delay_s=300), envoy_disabled=True)
        wait_until(lambda: len(application.requests) >= before + 3)  # and no second initial delay
        assert health.sent == [WorkloadHealthy()]
    assert health.wait_sent(2)[1:] != [WorkloadHealthy()]


@pytest.mark.parametrize(
    ("path", "verb"), [("/drain", "drain"), ("/quitquitquit", "quit"), ("/restart", "restart")]
)
def test_an_operators_word_reaches_envoy_actor(health: Health, path: str, verb: Any) -> None:
    health.start()
    assert get(health.port, path, "Content-Length: 0", method="POST").body == b"OK"
    assert health.wait_sent(1) == [EnvoyCommand(verb=verb)]


def test_an_operators_wish_for_a_rotation_reaches_cert_actor(health: Health) -> None:
    health.start()
    assert get(health.port, "/rotate", "Content-Length: 0", method="POST").body == b"OK"
    assert health.wait_sent(1) == [RotateNow(reason="operator")]


def test_the_tree_is_shown_as_metrics_and_as_json(health: Health, envoy: FakeEnvoyAdmin) -> None:
    envoy.pages["/stats/prometheus"] = b"envoy_x 1\n"
    health.start()
    sds = ActorState(
        role="sds",
        pid=0,
        incarnation=3,
        restarts=2,
        ready=True,
        heartbeat_age_s=0.5,
        pss_bytes=1000,
        private_bytes=500,
        descriptors=9,
        threads=4,
        mailbox_depth=1,
        counters={
            'num_outgoing_requests{request_type="csr"}': 1.0,
            'cert_expiry_unix_s{resource_name="default"}': time.time() + 1000,
            "xds_last_known_good_written_unix_s": time.time() - 500,
        },
    )
    health.tell(TreeState(actors=(sds,), supervisor_pss_bytes=2000), started(envoy.port))
    page = get(health.port, "/metrics").body.decode()
    for line in (
        'istio_agent_actor_restarts_total{actor="sds"} 2',
        'istio_agent_actor_pss_bytes{actor="sds"} 1000',
        'istio_agent_actor_mailbox_depth{actor="sds"} 1',
        'istio_agent_num_outgoing_requests{request_type="csr"} 1',
        "istio_agent_process_resident_memory_bytes 3000",
        "istio_agent_supervisor_pss_bytes 2000",
    ):
        assert line in page.splitlines(), line
    age = next(line for line in page.splitlines() if "heartbeat_age_seconds{" in line)
    assert 0.5 <= float(age.split()[1]) < 5
    expiry = next(line for line in page.splitlines() if line.startswith("istio_agent_cert_expiry_seconds{"))
    assert 990 < float(expiry.split()[1]) <= 1000
    age = next(line for line in page.splitlines() if line.startswith("istio_agent_xds_last_known_good_age"))
    assert 500 <= float(age.split()[1]) < 510
    document = json.loads(get(health.port, "/status").body)
    assert document["ready"] is True
    assert (document["actors"][0]["name"], document["actors"][0]["state"]) == ("sds", "ready")
    assert document["envoys"][0]["generation"] == 1
    assert document["workload"] is None


def test_a_taken_status_port_leaves_an_actor_that_works(health: Health) -> None:
    context = FakeContext(
        role=Role.HEALTH, options=(HealthOptions(), StatusOptions(port=0), StatusListener()), deliver=print
    )
    ref = HealthActor.start(context)
    ref.ask(NameTableReceived(), timeout=5)
    assert context.is_ready
    actor = ref._actor_weakref()
    assert isinstance(actor, HealthActor)
    actor.quit(1)
    ref.stop(timeout=5)


def test_a_taken_status_port_is_tried_again_until_it_is_ours(
    health: Health, envoy: FakeEnvoyAdmin, capfd: pytest.CaptureFixture[str]
) -> None:
    port = health.port

    def deliver(message: object) -> None:
        health.refs[-1].tell(message)

    health.context = context = FakeContext(
        role=Role.HEALTH,
        options=(HealthOptions(), StatusOptions(port=port, scrape_envoy=False), StatusListener()),
    )
    context.deliver = deliver
    health.refs.append(HealthActor.start(context))
    health.tell(started(envoy.port))
    context.advance(1.1)
    health.tell(NameTableReceived())  # behind the attempt
    assert [timer for timer in context.timers if "OpenPort" in repr(timer.message)]
    assert "Error" not in capfd.readouterr().out  # the start has told it
    health.listener.close()  # whoever had it is gone
    context.advance(2.1)
    health.tell(NameTableReceived())
    assert health.ready() == 200
    assert f"info\tOpened status port {port} at last" in capfd.readouterr().out
    assert not [timer for timer in context.timers if "OpenPort" in repr(timer.message)]


def test_the_time_since_a_start_is_measured() -> None:
    import os

    before = seconds_since_start(os.getpid())
    assert 0 < before < 3600
    assert seconds_since_start(os.getpid()) >= before
