"""Is everything still true when anything fails at any moment?

    python -m tests.chaos --seconds 600 [--seed N] [--only WORDS] [--phase NAME] [--acts N] [--json FILE]
    [--list]
    python -m tests.chaos --table FILE...        # a table of what was kept with --json

Gateway and sidecar with real Envoys, traffic of all kinds, and faults from a deck drawn by the seed. Each
act is told in a line, what is wrong at once and with its seed; at the end comes the table. It ends with 1 if
anything was wrong. The seed repeats the draws; what runs beside does not repeat itself, so a race may want
several runs.
`--only` plays the faults that contain one of these words (separated by |), in the steps where they can be.

Wants root for mounts of its own (small disks, a resolv.conf for DNS); without, those faults are left out.
"""

import argparse
import random
import secrets
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil

from tests.chaos import oracle, table
from tests.chaos.act import Actor, BrokenStageError, agents_of
from tests.chaos.faults import Fault, catalogue
from tests.chaos.oracle import Found
from tests.chaos.phases import PHASES
from tests.chaos.schedule import Card, episodes
from tests.chaos.stage import Stage, Variant, own_mounts, stage
from tests.chaos.watch import Watch


def main() -> int:
    options = _options()
    if options.table:
        print(table.table(table.kept(options.table)))
        return 0
    has_mounts = own_mounts()
    faults = _chosen(options.only, options.phase, has_mounts=has_mounts)
    if options.list:
        print("\n".join(one.name for one in faults))
        return 0
    seed = options.seed if options.seed is not None else secrets.randbelow(1 << 32)
    draw = random.Random(seed)
    print(f"seed {seed}: {len(faults)} faults", flush=True)
    end_s = time.monotonic() + options.seconds
    all_found: list[Found] = []
    for number, (variant, cards, episode_seed) in enumerate(episodes(faults, draw, acts=options.acts)):
        if time.monotonic() >= end_s:
            break
        print(f"episode {number}: {variant}, {len(cards)} acts, replay with --seed {seed}", flush=True)
        for found in _episode(variant, cards, episode_seed, end_s, has_mounts=has_mounts):
            all_found.append(found)
            if options.json:
                table.keep(options.json, found)
    print(table.table(all_found))
    wrong = [one for one in all_found if one.wrong]
    for one in wrong:
        print(f"WRONG (seed {seed}) {one.fault}, {one.phase} ({one.variant}): {one.wrong}")
    return int(bool(wrong))


def _episode(
    variant: Variant, cards: list[Card], seed: int, end_s: float, *, has_mounts: bool
) -> list[Found]:
    """Play cards on a stage of their own; return what was found, the stage's own end included."""
    all_found: list[Found] = []
    try:
        with stage(variant, random.Random(seed), has_mounts=has_mounts) as made:
            _acts(made, cards, end_s, all_found)
            all_found.append(_end(made))
    except BrokenStageError:
        pass  # it was told
    except (AssertionError, OSError) as error:
        broken = Found(fault="the stage", phase="episode", variant=variant, wrong=[f"{error!r}"[:2000]])
        all_found.append(broken)
        _tell("the stage", broken)
    return all_found


def _acts(made: Stage, cards: list[Card], end_s: float, all_found: list[Found]) -> None:
    with ExitStack() as stack:
        watches = {name: stack.enter_context(Watch(agent)) for name, agent in agents_of(made).items()}
        known = {name: oracle.descriptors(agent) for name, agent in agents_of(made).items()}
        actor = Actor(stage=made, watches=watches, known=known)
        for card in cards:
            if time.monotonic() >= end_s:
                return
            try:
                found = actor.play(card.fault, PHASES[card.phase.name], card.target)
            except BrokenStageError as broken:
                all_found.append(broken.found)
                _tell(str(card), broken.found)
                _show_logs(made)
                raise
            all_found.append(found)
            _tell(str(card), found)
            if found.wrong:
                _show_logs(made)


def _end(made: Stage) -> Found:
    """End both agents in order and look at what they leave."""
    found = Found(fault="orderly end", phase="episode", variant=made.variant)
    for agent in agents_of(made).values():
        family = agent.family()
        status = agent.quit(30)
        if status != 0:
            found.wrong.append(f"{agent.directory.name} ended with {status}")
        _, alive = psutil.wait_procs(family, timeout=2)
        found.wrong += [f"outlived: {one}" for one in alive if one.status() != psutil.STATUS_ZOMBIE]
        folder = agent.directory / "etc/istio/proxy"
        left = {each.name for each in folder.iterdir()} if folder.is_dir() else set()
        found.wrong += [f"left in {folder.name}: {sorted(left)}"] if left - {"grpc-bootstrap.json"} else []
    if made.has_mounts:
        shared = [one.name for one in Path("/dev/shm").iterdir() if one.name.startswith("envoy")]
        found.wrong += [f"left in /dev/shm: {shared}"] if shared else []
    _tell("orderly end", found)
    return found


def _tell(what: str, found: Found) -> None:
    back = f" back {max(found.back_s):.2f} s," if found.back_s else ""
    print(
        f"  {what}:{back} whole after {found.whole_s:.1f} s, {found.good} good, {found.cut} cut, "
        f"{found.failed} failed" + "".join(f"\n    note: {one}" for one in found.notes),
        flush=True,
    )
    for one in found.wrong:
        print(f"    WRONG: {one}", flush=True)


def _show_logs(made: Stage) -> None:
    for agent in agents_of(made).values():
        path = Path(f"/tmp/chaos-{agent.directory.parent.name}-{agent.directory.name}-{time.time():.0f}.log")
        path.write_text(agent.log())
        print(f"    log: {path}", flush=True)


def _chosen(only: str, phase: str, *, has_mounts: bool) -> list[Fault]:
    words = [word for word in only.split("|") if word]
    found = [
        one
        for one in catalogue().values()
        if (has_mounts or not one.wants_mounts) and (not words or any(word in one.name for word in words))
    ]
    if phase:
        import dataclasses

        found = [dataclasses.replace(one, phases=frozenset({phase})) for one in found if phase in one.phases]
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="Chaos; see the module's text."
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="begin no act after this time")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", default="", help="faults whose names contain one of these, separated by |")
    parser.add_argument("--phase", default="", choices=["", *PHASES])
    parser.add_argument("--acts", type=int, default=12, help="of an episode, at most")
    parser.add_argument("--json", type=Path, default=None, help="append each act to this file")
    parser.add_argument("--table", type=Path, nargs="*", default=None, help="show these files and end")
    parser.add_argument("--list", action="store_true", help="name the faults and end")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
