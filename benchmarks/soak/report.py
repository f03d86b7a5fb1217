"""The report of a soak: verdict, tables and pictures, out of its record alone."""

import gzip
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.pages import Picture, Section, Table, markdown, page
from benchmarks.plots import Line, NoPlotsError, Panel, draw
from benchmarks.soak.figures import PROCESSES, Count, Figure, block_s, counted, judged, passed, warmed_up
from benchmarks.soak.record import Record, Sample, quantile

_KIB_MB: Final = 1024 / 1e6
_METHOD: Final = """
Two agents with a real Envoy each, the same pushes, and requests through both (gateway, mTLS, sidecar,
application). The sidecar is struck: one of its actors is killed each half minute, in turn. The gateway is
spared, so that its actors live as long as the run; growth over time is judged by them, since an actor that
was killed begins anew. Of the sidecar, its supervisor and the sums over the tree are judged: they hold what
a killed actor leaves behind.

A series is averaged over blocks of {block:.0f} s (the round in which each actor is killed once takes 180);
a line is fitted through the blocks' means; its 95 % interval is Student's, widened by the correlation that
is left between neighbours. It passes when the upper end of the interval is within the limit. The first
fifth of the time is left out: caches and allocators fill, the memory of the last log lines (64 KiB) too.

"Own" memory is anonymous and shared memory and what is swapped out, each page divided by the processes that
have it. The PSS has the pages of libraries as well, which other programs on the machine share or not; it is
told and not judged. So are the latencies: they are those of a machine with other work.
"""


def write(record: Record, out: Path) -> bool:
    """Write report.md, report.html and the pictures into `out`; return whether the soak passed."""
    sections = [_verdict(record), _judgements(record), _held(record), _events(record)]
    try:
        pictures = list(_pictures(record, out))
    except NoPlotsError as error:
        print(error)
    else:
        sections += pictures
    sections.append(_conditions(record))
    title = f"Soak of {record.samples[-1].at_s / 60:.0f} minutes, {record.conditions.get('began', '')}"
    (out / "report.md").write_text(markdown(title, sections), encoding="utf-8")
    (out / "report.html").write_text(page(title, sections), encoding="utf-8")
    return passed(record)


def pack(path: Path) -> Path:
    """Return a record's file, compressed; the one that was not is removed."""
    packed = path.with_suffix(path.suffix + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
    path.unlink()
    return packed


def _verdict(record: Record) -> Section:
    last, happened = record.samples[-1], record.happened
    bad = [one.what for one in judged(record) if one.ok is False]
    bad += [f"{one.what}: {one.count}" for one in counted(record) if not one.ok]
    killed = sum(one.what == "actor killed" for one in happened)
    requests = sum(one.latencies[kind].count for one in record.samples for kind in ("kept", "new"))
    pushes = sum(one.latencies["pushes"].count for one in record.samples)
    did = (
        f"{last.at_s / 60:.1f} minutes: {requests} requests, {last.failed} of them failed; {pushes} pushes; "
        f"{sum(one.rotations for one in last.agents.values())} certificates; "
        f"{sum(one.epoch for one in last.agents.values())} hot restarts; {killed} actors killed."
    )
    text = f"{'PASS' if passed(record) else 'FAIL'}. {did}"
    return Section(title="Verdict", text=(text, f"Not passed: {'; '.join(bad)}.") if bad else (text,))


def _judgements(record: Record) -> Section:
    head = ("what", "first block", "last block", "highest", "slope per hour (95 %)", "limit", "verdict")
    rows = [_figure(one) for one in judged(record)]
    rows += [_count(one) for one in counted(record)]
    method = _METHOD.format(block=block_s(warmed_up(record.samples))).strip().split("\n\n")
    return Section(title="What grows", text=tuple(method), table=Table(head=head, rows=tuple(rows)))


def _figure(one: Figure) -> tuple[str, ...]:
    unit = f", {one.unit}" if one.unit else ""
    values = (f"{value:.4g}" for value in (one.first, one.last, one.highest))
    limit = "" if one.limit is None else f"{one.limit:g}"
    return (one.what + unit, *values, str(one.slope), limit, one.verdict)


def _count(one: Count) -> tuple[str, ...]:
    return (one.what, "", str(one.count), "", "", "0", "pass" if one.ok else "FAIL")


def _held(record: Record) -> Section:
    """Tell each process's share, for both agents: median over the samples after the warm-up."""
    samples, rows = warmed_up(record.samples), []
    for agent in ("gateway", "sidecar"):
        for name in PROCESSES:
            seen = [
                each
                for one in samples
                if (each := one.agents[agent].holdings.processes.get(name)) is not None
            ]
            if seen:
                middle = (
                    statistics.median(each.own_kib * _KIB_MB for each in seen),
                    statistics.median(each.pss_kib * _KIB_MB for each in seen),
                    statistics.median(each.descriptors for each in seen),
                    statistics.median(each.threads for each in seen),
                )
                rows.append((f"{agent}, {name}", *(f"{value:.4g}" for value in middle)))
    head = ("median", "own memory, MB", "PSS, MB", "descriptors", "threads")
    return Section(title="Process by process", table=Table(head=head, rows=tuple(rows)))


def _events(record: Record) -> Section:
    rows = []
    for role in PROCESSES[1:]:
        took = [one.took_ms for one in record.happened if one.what == "actor killed" and one.detail == role]
        if took:
            cells = (statistics.median(took), quantile(took, 0.99), max(took))
            rows.append((role, str(len(took)), *(f"{value:.0f}" for value in cells)))
    others = [one for one in record.happened if one.what != "actor killed"]
    text = [f"{one.at_s:.0f} s: {one.what} {one.agent} {one.detail}" for one in others[:40]]
    head = ("killed", "times", "next one lives, ms, median", "p99", "highest")
    return Section(
        title="What happened", text=tuple(text), table=Table(head=head, rows=tuple(rows)) if rows else None
    )


def _conditions(record: Record) -> Section:
    last = record.samples[-1]
    cpu_s = sum(one.holdings.cpu_s for one in last.agents.values())
    loads = [one.load for one in record.samples]
    text = [f"{name}: {value}" for name, value in record.conditions.items() if value]
    middle, highest = statistics.median(loads), max(loads)
    text.append(f"load of the machine in that time: {middle:.1f} (median), {highest:.1f} (highest)")
    share = cpu_s / last.at_s * 100
    text.append(f"processor time of both agents without Envoy: {cpu_s:.0f} s, {share:.1f} % of a core in all")
    own = last.own_cpu_s / last.at_s * 100
    text.append(f"of this program with control plane, application and clients: {own:.1f} % of a core")
    return Section(title="Conditions", text=tuple(text))


def _pictures(record: Record, out: Path) -> Iterator[Section]:
    hits = tuple(one.at_s / 60 for one in record.happened if one.what == "actor killed")
    for agent in ("gateway", "sidecar"):
        file = out / f"{agent}.png"
        draw(file, list(_agent_panels(record, agent, hits if agent == "sidecar" else ())))
        yield Section(title=f"The {agent}", picture=Picture(file=file, alternative=f"what the {agent} held"))
    file = out / "latencies.png"
    draw(file, list(_latency_panels(record)))
    yield Section(title="Latencies", picture=Picture(file=file, alternative="latencies over time"))


def _agent_panels(record: Record, agent: str, hits: tuple[float, ...]) -> Iterator[Panel]:
    def line(label: str, value: Callable[[Sample], float | None], *, is_faint: bool = False) -> Line:
        points = [(one.at_s / 60, found) for one in record.samples if (found := value(one)) is not None]
        return Line(label=label, points=points, is_faint=is_faint)

    def own(name: str) -> Callable[[Sample], float | None]:
        def value(sample: Sample) -> float | None:
            process = sample.agents[agent].holdings.processes.get(name)
            return None if process is None else process.own_kib * _KIB_MB

        return value

    def total(member: str, factor: float = 1.0) -> Callable[[Sample], float | None]:
        def value(sample: Sample) -> float | None:
            processes = sample.agents[agent].holdings.processes
            whole = len(processes) == len(PROCESSES)
            return sum(asdict(each)[member] for each in processes.values()) * factor if whole else None

        return value

    yield Panel(
        title=f"{agent}: own memory of each process" + (" (grey: one was killed)" if hits else ""),
        unit="MB",
        lines=tuple(line(name, own(name)) for name in PROCESSES),
        marks=hits,
    )
    yield Panel(
        title=f"{agent}: all processes",
        unit="MB",
        lines=(
            line("own memory", total("own_kib", _KIB_MB)),
            line("PSS", total("pss_kib", _KIB_MB), is_faint=True),
        ),
    )
    yield Panel(
        title=f"{agent}: descriptors, threads, files, messages that wait",
        unit="",
        lines=(
            line("descriptors", total("descriptors")),
            line("threads", total("threads")),
            line("files on the disk", lambda one: one.agents[agent].holdings.files),
            line("objects in /dev/shm", lambda one: one.agents[agent].holdings.shared_memory),
            line("in mailboxes", lambda one: sum(one.agents[agent].mailboxes.values()), is_faint=True),
        ),
    )
    yield Panel(
        title=f"{agent}: rotations and hot restarts so far",
        unit="",
        lines=(
            line("certificates", lambda one: one.agents[agent].rotations),
            line("Envoy's epoch", lambda one: one.agents[agent].epoch),
        ),
    )


def _latency_panels(record: Record) -> Iterator[Panel]:
    kinds = (
        ("kept", "requests, kept connection"),
        ("new", "requests, new connections"),
        ("pushes", "pushes"),
    )
    for kind, title in kinds:
        seen = [(one.at_s / 60, one.latencies.get(kind)) for one in record.samples]
        points = [(at, one) for at, one in seen if one is not None and one.count]
        if not points:
            continue
        yield Panel(
            title=title,
            unit="ms",
            lines=(
                Line(label="p50", points=[(at, one.p50_ms) for at, one in points]),
                Line(label="p99", points=[(at, one.p99_ms) for at, one in points], is_faint=True),
            ),
            is_logarithmic=True,
        )
