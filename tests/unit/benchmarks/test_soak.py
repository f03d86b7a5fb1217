"""The verdict of a soak: which series count, what is left out, and what must never happen."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.holdings import Holdings, Process
from benchmarks.soak.figures import PROCESSES, Figure, counted, judged, passed, warmed_up
from benchmarks.soak.record import AgentSample, Happened, Latency, Record, Sample, Writer, read

LONG = 400  # samples, ten seconds apart


def agent(own_kib: int = 8000, *, without: str = "", restarts: int = 0) -> AgentSample:
    processes = {
        name: Process(pid=1, pss_kib=9000, own_kib=own_kib, descriptors=15, threads=5)
        for name in PROCESSES
        if name != without
    }
    return AgentSample(
        holdings=Holdings(processes=processes, memory_files_kib=80, envoys=2, shared_memory=1, files=25),
        mailboxes={"sds": 0, "health": 1},
        restarts=restarts,
        rotations=3,
        epoch=1,
        log_bytes=10_000,
    )


def sample(number: int, gateway: AgentSample | None = None) -> Sample:
    return Sample(
        at_s=number * 10.0,
        agents={"gateway": gateway or agent(), "sidecar": agent()},
        latencies={name: Latency.of([5.0, 6.0, 7.0]) for name in ("kept", "new", "probes", "pushes")},
        failed=0,
        rejected=0,
        unaccepted=0,
        load=1.0,
        own_cpu_s=1.0,
    )


def figure(record: Record, what: str) -> Figure:
    return next(one for one in judged(record) if one.what == what)


def test_what_stays_as_it_is_passes() -> None:
    record = Record(samples=[sample(number) for number in range(LONG)])
    assert {one.verdict for one in judged(record)} == {"pass", ""}
    assert passed(record)


def test_an_actor_that_grows_fails_and_so_does_the_sum() -> None:
    record = Record(samples=[sample(number, agent(8000 + 2 * number)) for number in range(LONG)])
    assert figure(record, "gateway: own memory, cert").verdict == "FAIL: grows"
    assert figure(record, "gateway: own memory, all processes").verdict == "FAIL: grows"
    assert figure(record, "gateway: descriptors").verdict == "pass"
    assert not passed(record)


def test_what_rises_only_while_it_warms_up_passes() -> None:
    record = Record(samples=[sample(number, agent(8000 + min(number, 70) * 10)) for number in range(LONG)])
    assert warmed_up(record.samples)[0].at_s >= 0.2 * record.samples[-1].at_s
    assert passed(record)


def test_a_run_that_is_too_short_to_be_sure_fails() -> None:
    swinging = [sample(number, agent(8000 + 500 * (number % 7))) for number in range(20)]
    one = figure(Record(samples=swinging), "gateway: own memory, sds")
    assert one.verdict == "FAIL: not shown that it does not grow"


def test_a_sample_that_meets_a_killed_actor_is_not_counted_as_a_smaller_agent() -> None:
    samples = [sample(number, agent(without="sds" if number % 3 == 0 else "")) for number in range(LONG)]
    assert figure(Record(samples=samples), "gateway: own memory, all processes").slope.per_hour == 0


@pytest.mark.parametrize("member", ["failed", "rejected", "unaccepted", "unanswered"])
def test_what_must_not_happen_fails_a_run_in_which_nothing_grows(member: str) -> None:
    samples = [sample(number) for number in range(LONG)]
    happened: dict[str, Any] = {member: 1}
    samples[-1] = replace(samples[-1], **happened)
    assert not passed(Record(samples=samples))


def test_a_death_that_nobody_ordered_is_told_from_those_that_were() -> None:
    samples = [sample(number) for number in range(LONG)]
    samples[-1].agents["sidecar"] = agent(restarts=2)
    killed = Happened(at_s=30, what="actor killed", agent="sidecar", detail="cert")
    record = Record(samples=samples, happened=[killed, killed])
    assert passed(record)
    record.happened.pop()
    assert next(one.count for one in counted(record) if "by themselves" in one.what) == 1
    assert not passed(record)


def test_a_kill_that_the_last_sample_does_not_know_of_yet_is_no_death_too_few() -> None:
    samples = [sample(number) for number in range(LONG)]
    killed = Happened(at_s=samples[-1].at_s, what="actor killed", agent="sidecar", detail="cert")
    assert passed(Record(samples=samples, happened=[killed]))


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "record.jsonl"
    writer = Writer(file, {"pace": "compressed"})
    writer.sample(sample(1))
    writer.happened(Happened(at_s=1.5, what="actor killed", agent="sidecar", detail="sds", took_ms=30.0))
    writer.close()
    assert read(file) == writer.record
    packed = tmp_path / "record.jsonl.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert read(packed) == writer.record


def test_another_format_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "record.jsonl"
    file.write_text(json.dumps({"format": 99}) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"record\.jsonl: format 99, wanted 1"):
        read(file)
