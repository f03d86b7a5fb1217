"""A look at an Envoy that serves: fresh, cheap, and not fooled by silence or another epoch."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from pilot_agent.health.generations import Generation
from pilot_agent.health.watch import Watch, expired_s, process_state
from tests.support.fake_envoy_admin import READY, FakeEnvoyAdmin
from tests.support.http_peer import closed_port
from tests.support.waiting import wait_for


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def envoy() -> Iterator[FakeEnvoyAdmin]:
    with FakeEnvoyAdmin(READY | {"server.hot_restart_epoch": 0}) as admin:
        yield admin


def generation(port: int, epoch: int = 0) -> Generation:
    return Generation(generation=1, epoch=epoch, admin_port=port)


def test_a_look_serves_a_second_and_then_envoy_is_asked_again(envoy: FakeEnvoyAdmin) -> None:
    clock = Clock()
    watch = Watch("127.0.0.1", ready_port=closed_port(), clock=clock)
    for _ in range(50):
        assert watch.seen(generation(envoy.port), certificate_expired=False).refusal == ""
    assert len(envoy.asked) == 1
    envoy.stats["server.state"] = 1
    clock.now_s += 1.1
    text = watch.seen(generation(envoy.port), certificate_expired=False).refusal
    assert text == "server is not live, current state is: DRAINING"


def test_silence_is_measured_from_its_first_question_and_ends_with_an_answer(envoy: FakeEnvoyAdmin) -> None:
    clock = Clock()
    watch = Watch("127.0.0.1", ready_port=closed_port(), clock=clock)
    envoy.status = "503 Service Unavailable"
    for expected_s in (0.0, 6.0, 12.0):
        seen = watch.seen(generation(envoy.port), certificate_expired=False)
        assert seen.silent_since_s is not None
        assert seen.at_s - seen.silent_since_s == expected_s
        clock.now_s += 6
    envoy.status = "200 OK"
    assert watch.seen(generation(envoy.port), certificate_expired=False).silent_since_s is None
    clock.now_s += 6
    envoy.stats = {}
    seen = watch.seen(generation(envoy.port), certificate_expired=False)
    assert (seen.refusal, seen.silent_since_s) == ("", clock.now_s), "an empty answer says nothing"


def test_who_asks_while_a_question_is_under_way_gets_the_last_answer_at_once(envoy: FakeEnvoyAdmin) -> None:
    clock = Clock()
    watch = Watch("127.0.0.1", ready_port=closed_port(), clock=clock)
    watch.seen(generation(envoy.port), certificate_expired=False)
    envoy.silent = True
    clock.now_s += 2
    slow = threading.Thread(
        target=watch.seen, args=(generation(envoy.port),), kwargs={"certificate_expired": False}, daemon=True
    )
    slow.start()
    wait_for(lambda: len(envoy.asked) == 2, what="the second question")
    began_s = time.monotonic()
    assert watch.seen(generation(envoy.port), certificate_expired=False).silent_since_s is None
    assert time.monotonic() - began_s < 0.2
    slow.join(5)


def test_another_epoch_behind_the_admin_port_says_nothing_of_this_one(envoy: FakeEnvoyAdmin) -> None:
    envoy.stats["server.state"] = 3
    watch = Watch("127.0.0.1", ready_port=closed_port())
    seen = watch.seen(generation(envoy.port, epoch=7), certificate_expired=False)
    assert (seen.refusal, seen.silent_since_s, seen.listens) == ("", None, None)


def test_whether_the_listener_is_there_is_told_by_a_connection(envoy: FakeEnvoyAdmin) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        watch = Watch("127.0.0.1", ready_port=listener.getsockname()[1])
        assert watch.seen(generation(envoy.port), certificate_expired=False).listens is True
    watch = Watch("127.0.0.1", ready_port=closed_port())
    assert watch.seen(generation(envoy.port), certificate_expired=False).listens is False


def test_listeners_of_istiod_are_told_from_those_of_the_bootstrap(envoy: FakeEnvoyAdmin) -> None:
    dump = "/config_dump"
    envoy.pages[dump] = b'{"configs": [{"listener": {}}, {"listener": {}}]}'
    clock = Clock()
    watch = Watch("127.0.0.1", ready_port=closed_port(), clock=clock)
    told = []
    for active in (None, 40, 3, 2, 3):
        if active is not None:
            envoy.stats["listener_manager.total_listeners_active"] = active
        told.append(watch.seen(generation(envoy.port), certificate_expired=False).configured)
        clock.now_s += 1.1
    assert told == [None, True, True, False, True]
    assert len([target for target in envoy.asked if target.startswith(dump)]) == 1


@pytest.mark.parametrize("page", [b"", b"[]", b"not json", b"x" * (2 << 20)])
def test_listeners_that_cannot_be_counted_are_no_reason(envoy: FakeEnvoyAdmin, page: bytes) -> None:
    envoy.pages["/config_dump"] = page
    envoy.stats["listener_manager.total_listeners_active"] = 2
    watch = Watch("127.0.0.1", ready_port=closed_port())
    assert watch.seen(generation(envoy.port), certificate_expired=False).configured is None


def certs(*ends: str, uri: str = "spiffe://cluster.local/ns/a/sa/b") -> bytes:
    chain = [
        {"subject_alt_names": [{"uri": uri}], "expiration_time": end, "serial_number": "1"} for end in ends
    ]
    return json.dumps(
        {"certificates": [{"ca_cert": [{"expiration_time": ends[0]}], "cert_chain": chain}]}
    ).encode()


def test_the_expired_certificate_is_one_that_envoy_uses_and_that_is_a_workloads() -> None:
    noon = 1_800_000_000.0  # 2027-01-15T08:00:00Z
    assert expired_s(certs("2027-01-15T07:59:50Z"), noon) == 10.0
    assert expired_s(certs("2027-01-15T08:00:10Z"), noon) == 0.0
    assert expired_s(certs("2027-01-15T07:59:50Z", uri="https://a.b"), noon) == 0.0
    assert expired_s(b"{}", noon) == 0.0


def test_certificates_are_asked_for_only_when_one_has_expired(envoy: FakeEnvoyAdmin) -> None:
    envoy.pages["/certs"] = certs("2020-01-01T00:00:00Z")
    assert (
        Watch("127.0.0.1", ready_port=1).seen(generation(envoy.port), certificate_expired=False).expired_s
        == 0
    )
    assert "/certs" not in envoy.asked
    assert (
        Watch("127.0.0.1", ready_port=1).seen(generation(envoy.port), certificate_expired=True).expired_s > 0
    )


def test_the_kernel_tells_whether_a_process_runs_is_stopped_or_gone() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        assert process_state(process.pid) == "runs"
        os.kill(process.pid, signal.SIGSTOP)
        wait_for(lambda: process_state(process.pid) == "stopped", what="the stop")
    finally:
        process.kill()
    wait_for(lambda: process_state(process.pid) == "gone", what="the end, not reaped yet")
    process.wait(5)
    assert process_state(process.pid) == "gone"
    assert process_state(0) == "runs"
