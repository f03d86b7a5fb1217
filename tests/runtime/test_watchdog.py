"""When an actor is killed, as a table."""

from typing import Any

import msgspec
import pytest

from actors.runtime.backoff import restart_delay_s
from actors.runtime.watchdog import Vitals, own_absence_s, reason_to_kill, silent_since_s

WELL = Vitals(
    silent_since_s=None,
    stopped_since_s=None,
    private_bytes=10,
    private_limit_bytes=100,
    oldest_unfinished_s=0.0,
    heartbeat_late_s=10.0,
)
NOW_S = 1000.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"silent_since_s": NOW_S - 9.9}, None),
        ({"silent_since_s": NOW_S - 10.5}, "no answer to a heartbeat for 10.5 s"),
        ({"stopped_since_s": NOW_S - 0.4}, None),
        ({"stopped_since_s": NOW_S - 0.6}, "stopped for 0.6 s"),
        ({"private_bytes": 100}, None),
        (
            {"private_bytes": 300 << 20, "private_limit_bytes": 96 << 20},
            "private memory got=300 MiB limit=96 MiB",
        ),
        ({"oldest_unfinished_s": 29.0}, None),
        ({"oldest_unfinished_s": 31.0}, "byte path stuck for 31.0 s"),
    ],
)
def test_an_actor_is_killed_only_with_a_reason(change: dict[str, Any], reason: str | None) -> None:
    assert reason_to_kill(msgspec.structs.replace(WELL, **change), NOW_S) == reason


@pytest.mark.parametrize(
    ("gap_s", "away_s"), [(0.25, 0.0), (0.5, 0.0), (2.2, 0.0), (2.35, 2.1), (86400.25, 86400.0)]
)
def test_the_supervisors_own_absence_is_noticed(gap_s: float, away_s: float) -> None:
    assert own_absence_s(NOW_S, NOW_S + gap_s, 0.25) == pytest.approx(away_s)


def test_silence_begins_with_the_last_sign_of_life_but_not_while_nobody_asked() -> None:
    assert silent_since_s(NOW_S - 1.9, NOW_S) == NOW_S - 1.9
    assert silent_since_s(NOW_S - 60.0, NOW_S) == NOW_S - 2.0


def test_the_first_restart_is_immediate_and_none_waits_above_ten_seconds() -> None:
    assert restart_delay_s(1) == 0.0
    assert 0.2 <= restart_delay_s(2) <= 0.4
    assert all(restart_delay_s(failures) <= 10.0 for failures in range(1, 2000))
    assert restart_delay_s(5, lived_s=0.9) >= 1.6
    assert restart_delay_s(5, lived_s=1.0) == 0.0
