"""Thresholds and transitions."""

from pilot_agent.health.verdict import Verdict


def run(results: str, *, successes: int = 1, failures: int = 1, begin: Verdict | None = None) -> list[str]:
    """Feed `+` and `-`; return what is told, beside the number of the result that made it so."""
    verdict, told = begin or Verdict(), []
    for number, result in enumerate(results, 1):
        before = verdict.health
        verdict = verdict.after(
            None if result == "+" else f"failure {number}",
            success_threshold=successes,
            failure_threshold=failures,
        )
        if verdict.health != before:
            told.append(f"{number}{verdict.health}{verdict.message and ': ' + verdict.message}")
    return told


def test_only_transitions_are_told() -> None:
    assert run("++-++--+") == [
        "1healthy",
        "3unhealthy: failure 3",
        "4healthy",
        "6unhealthy: failure 6",
        "8healthy",
    ]


def test_a_threshold_counts_results_in_a_row() -> None:
    assert run("++-+++", successes=3) == ["3unhealthy: failure 3", "6healthy"]
    assert run("+--+---", failures=3) == ["1healthy", "7unhealthy: failure 7"]


def test_before_its_threshold_nothing_is_told() -> None:
    assert run("++", successes=3) == []


def test_a_remembered_verdict_is_not_told_again_and_its_counters_start_anew() -> None:
    healthy = Verdict(health="healthy", failures=2)
    assert run("++", begin=healthy.remembered()) == []
    assert run("-+--", failures=3, begin=healthy.remembered()) == []
    assert run("---", failures=3, begin=healthy.remembered()) == ["3unhealthy: failure 3"]
