"""From single results to verdicts: thresholds, and only transitions are told. Pure."""

from typing import Literal, Self

import msgspec

Health = Literal["undefined", "healthy", "unhealthy"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What istiod was told last, and how many results in a row speak for which side."""

    health: Health = "undefined"
    message: str = ""  # of the failure that made it unhealthy
    successes: int = 0
    failures: int = 0

    def after(self, failure: str | None, *, success_threshold: int, failure_threshold: int) -> Self:
        """Return the next state; a new `health` is a transition that istiod is to be told.

        Args:
            failure: None for a success, else the error text.
            success_threshold: Successes in a row that make it healthy.
            failure_threshold: Failures in a row that make it unhealthy.

        Source: the reference's health checker. It compares by equality; a counter beyond its threshold
        belongs to the state that stands already, so nothing is told twice.
        """
        if failure is None:
            successes = self.successes + 1
            if successes == success_threshold and self.health != "healthy":
                return msgspec.structs.replace(self, health="healthy", message="", successes=0, failures=0)
            return msgspec.structs.replace(self, successes=successes, failures=0)
        failures = self.failures + 1
        if failures == failure_threshold and self.health != "unhealthy":
            return msgspec.structs.replace(self, health="unhealthy", message=failure, successes=0, failures=0)
        return msgspec.structs.replace(self, successes=0, failures=failures)

    def remembered(self) -> Self:
        """Return what a restarted checker begins with: the verdict stands, its evidence starts anew."""
        return msgspec.structs.replace(self, successes=0, failures=0)
