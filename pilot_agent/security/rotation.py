"""When a certificate is to be replaced, and when to try again if that failed. Pure: the edge draws.

Source: the reference's secret cache (rotation), for the first; the second is ours: the reference drops
the old certificate first and leaves trying again to Envoy.
"""

from typing import Final

LONGEST_RETRY_S: Final = 40.0
"""An attempt itself may take some seconds: whatever heals, there is a certificate within a minute."""

FIRST_RETRY_S: Final = 0.5


def seconds_until_rotation(
    *, created_s: float, not_after_s: float, now_s: float, grace_ratio: float, jitter: float
) -> float:
    """Return how many seconds from `now_s` the certificate is due for rotation; 0.0 if it is.

    Args:
        created_s: When it was signed, by the local clock, seconds since the epoch.
        not_after_s: End of its validity.
        now_s: The time it is.
        grace_ratio: Share of the lifetime left when rotation is due, 0 to 1
            (SECRET_GRACE_PERIOD_RATIO, 0.5 unless set).
        jitter: Signed share added to `grace_ratio`; the sum is clamped to 0 to 1.

    Raises:
        ValueError: the lifetime is not positive.
    """
    lifetime_s = not_after_s - created_s
    if lifetime_s <= 0:
        raise ValueError(f"certificate of {lifetime_s:.0f} s lifetime: already expired when signed")
    grace_s = min(max(grace_ratio + jitter, 0.0), 1.0) * lifetime_s
    return max(not_after_s - grace_s - now_s, 0.0)


def longest_retry_s(*, remaining_s: float) -> float:
    """Return the bound of the wait before the next attempt, for a certificate with `remaining_s` left.

    A tenth of what is left, so that a short-lived one gets its attempts too; 1 s to 40 s.
    """
    return min(max(remaining_s / 10, 1.0), LONGEST_RETRY_S)


def retry_s(*, failures: int, longest_s: float, share: float) -> float:
    """Return the wait before the next attempt: full jitter (`share`, 0 to 1) of an exponential.

    Args:
        failures: Attempts that failed in a row, at least 1.
        longest_s: Bound of the exponential (`longest_retry_s`).
        share: What the edge drew.
    """
    exponential_s: float = min(FIRST_RETRY_S * 2.0 ** min(failures - 1, 16), longest_s)
    return share * exponential_s


def warm_up_retry_s(*, failures: int, share: float) -> float:
    """Return the wait while there is no certificate: full jitter of 0.5 s, times 1.5, at most 40 s.

    Args:
        failures: Attempts that failed in a row, at least 1.
        share: What the edge drew, 0 to 1.

    Source: the warm-up loop of the reference's SDS server, which spreads by half and goes up to 60 s.
    """
    exponential_s: float = min(FIRST_RETRY_S * 1.5 ** min(failures - 1, 32), LONGEST_RETRY_S)
    return share * exponential_s
