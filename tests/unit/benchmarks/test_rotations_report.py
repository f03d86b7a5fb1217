"""The report of a row of rotations, out of what a run has written."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rotations_report
from benchmarks.holdings import Holdings, Process
from benchmarks.rotations import Held, Outcome, environment


def outcome(samples: int = 100) -> dict[str, Any]:
    def held(number: int) -> Held:
        process = Process(pid=1, pss_kib=9000, own_kib=8000, descriptors=15 + number, threads=5)
        holdings = Holdings(processes={"supervisor": process}, envoys=1, envoy_kib=60_000)
        return Held(at_s=number * 10.0, rotations=number * 30, holdings=holdings)

    found = Outcome(policy="sds", rotations=samples * 30, duration_s=samples * 10.0, missed_in_certs=["ab"])
    found.held = [held(number) for number in range(samples)]
    document: dict[str, Any] = json.loads(json.dumps(asdict(found)))
    return document


def test_what_was_lost_and_what_grew_is_told(tmp_path: Path) -> None:
    rotations_report.write(outcome(), tmp_path, "rotations-sds")
    text = (tmp_path / "rotations-sds.md").read_text(encoding="utf-8")
    assert "# 3000 rotations with policy sds" in text
    assert "| serial numbers that Envoy's /certs never showed | 1 |" in text
    assert "| requests that failed | 0 |" in text
    assert "+360 (+360 to +360)" in text  # a descriptor in ten seconds
    assert "| own memory, MB | 8.192 | 8.192 | 8.192 | +0 (+0 to +0) |" in text


def test_a_run_of_seconds_has_no_slopes(tmp_path: Path) -> None:
    rotations_report.write(outcome(samples=3), tmp_path, "rotations-sds")
    assert "own memory, MB" not in (tmp_path / "rotations-sds.md").read_text(encoding="utf-8")


def test_what_no_run_has_written_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text('{"policy": "sds"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"other\.json: lacks conditions, held, rotations"):
        rotations_report.read(file)


@pytest.mark.parametrize(("rate", "ratio"), [(3.0, "0.9997778"), (5.0, "1.0000000"), (100.0, "1.0000000")])
def test_the_grace_ratio_makes_the_rate(rate: float, ratio: str) -> None:
    assert environment("sds", rate)["SECRET_GRACE_PERIOD_RATIO"] == ratio
