"""When probes run: rhythm, delay, one at a time."""

import threading
import time

import pytest

from pilot_agent.health.checker import Checker, next_due_s
from pilot_agent.health.probe import ReadinessProbe
from pilot_agent.health.verdict import Verdict


@pytest.mark.parametrize(
    ("now_s", "due_s"),
    [(100.0, 110.0), (103.0, 110.0), (109.9, 110.0), (110.0, 110.0), (115.0, 110.0), (139.0, 130.0)],
    ids=["at once", "within", "just within", "on the beat", "one missed", "three missed"],
)
def test_a_late_probe_is_made_up_once_and_the_beat_stays(now_s: float, due_s: float) -> None:
    assert next_due_s(100.0, now_s, 10.0) == due_s


def test_the_first_failing_probe_decides_and_transitions_alone_are_told() -> None:
    results = iter([None, "envoy", None, None])
    app = iter([None, "app", "app"])
    told: list[Verdict] = []
    checker = Checker(ReadinessProbe(), [lambda: next(results), lambda: next(app)], Verdict(), told.append)
    for _ in range(4):
        checker.probe_once()
    assert [(each.health, each.message) for each in told] == [("healthy", ""), ("unhealthy", "envoy")]


def test_the_initial_delay_can_be_cut_short() -> None:
    checker = Checker(ReadinessProbe(initial_delay_s=300), [lambda: pytest.fail("probed")], Verdict(), print)
    thread = threading.Thread(target=checker.run, kwargs={"initial_delay": True}, daemon=True)
    thread.start()
    checker.close()
    thread.join(5)
    assert not thread.is_alive()


def test_probes_follow_each_other_at_the_period_without_the_initial_delay_after_a_restart() -> None:
    times: list[float] = []
    enough = threading.Event()

    def probe() -> str | None:
        times.append(time.monotonic())
        if len(times) == 3:
            enough.set()
        return None

    settings = ReadinessProbe(initial_delay_s=300, period_s=0.1)
    checker = Checker(settings, [probe], Verdict(), lambda _: None)
    began = time.monotonic()
    thread = threading.Thread(target=checker.run, kwargs={"initial_delay": False}, daemon=True)
    thread.start()
    assert enough.wait(10)
    checker.close()
    thread.join(5)
    assert times[0] - began < 1
    assert times[2] - times[0] >= 0.19


def test_a_verdict_reached_after_the_end_is_not_told() -> None:
    told: list[Verdict] = []
    checker = Checker(ReadinessProbe(), [lambda: None], Verdict(), told.append)
    checker.close()
    checker.probe_once()
    assert told == []
