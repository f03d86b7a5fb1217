import pytest

from pilot_agent.security.rotation import longest_retry_s, retry_s, seconds_until_rotation, warm_up_retry_s

DAY_S = 86400.0


@pytest.mark.parametrize(
    ("now_s", "ratio", "jitter", "expected_s"),
    [
        (0.0, 0.5, 0.0, 43200.0),
        (0.0, 0.5, 0.01, 42336.0),
        (0.0, 0.5, -0.01, 44064.0),
        (50000.0, 0.5, 0.0, 0.0),
        (0.0, 0.995, 0.01, 0.0),
        (0.0, 0.005, -0.01, DAY_S),
        (100.0, 0.5, 0.0, 43100.0),
    ],
    ids=[
        "half",
        "earlier",
        "later",
        "overdue is now",
        "clamped to one",
        "clamped to zero",
        "some time after",
    ],
)
def test_rotation_is_due_when_the_grace_share_is_left(
    now_s: float, ratio: float, jitter: float, expected_s: float
) -> None:
    delay_s = seconds_until_rotation(
        created_s=0.0, not_after_s=DAY_S, now_s=now_s, grace_ratio=ratio, jitter=jitter
    )
    assert delay_s == pytest.approx(expected_s)


def test_a_certificate_without_a_lifetime_is_an_error() -> None:
    with pytest.raises(ValueError, match="already expired when signed"):
        seconds_until_rotation(created_s=10.0, not_after_s=10.0, now_s=0.0, grace_ratio=0.5, jitter=0.0)


def test_retries_of_a_rotation_are_full_jitter_of_an_exponential_with_a_bound() -> None:
    assert [retry_s(failures=n, longest_s=60.0, share=1.0) for n in (1, 2, 3, 20)] == [0.5, 1.0, 2.0, 60.0]
    assert retry_s(failures=5, longest_s=60.0, share=0.0) == 0.0


def test_a_certificate_with_little_time_left_is_tried_for_more_often() -> None:
    assert [longest_retry_s(remaining_s=s) for s in (DAY_S, 100.0, 3.0, -5.0)] == [40.0, 10.0, 1.0, 1.0]


def test_the_warm_up_waits_grow_by_half_with_full_jitter_and_stay_below_a_minute() -> None:
    assert [warm_up_retry_s(failures=n, share=1.0) for n in (1, 2, 3, 40)] == [0.5, 0.75, 1.125, 40.0]
    assert warm_up_retry_s(failures=9, share=0.0) == 0.0
