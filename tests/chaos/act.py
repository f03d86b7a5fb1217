"""One act: a step of the agent's life begins, a fault strikes, is cured, and everything is looked at."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.chaos import oracle
from tests.chaos.faults import NOTHING, Fault, Strike
from tests.chaos.oracle import Found, Truth
from tests.chaos.phases import Phase, pause
from tests.chaos.stage import Stage
from tests.chaos.watch import Watch
from tests.support.agent import RealAgent
from tests.support.waiting import wait_for

_END_S = 20.0
_AGAIN_S = 60.0  # a whole start, with a CA that was away


@dataclass(kw_only=True)
class Actor:
    """Plays acts on one stage; `known` is what the agents held in peace, by the name of their directory."""

    stage: Stage
    watches: dict[str, Watch]
    known: dict[str, dict[str, int]]

    def play(self, fault: Fault, phase: Phase, target: str) -> Found:
        """Play one act; whatever is wrong is in what it returns.

        Raises:
            BrokenStageError: the stage is not whole any more.
        """
        stage = self.stage
        agent = stage.agent(target)
        found = Found(fault=fault.name, phase=phase.name, variant=stage.variant)
        if target == "router":
            found.notes.append("struck the gateway")
        strike = Strike(stage=stage, agent=agent, watch=self.watches[target])
        before = oracle.truth(stage, self.known[target])
        good = stage.traffic.good()
        stage.notes.clear()
        with _noted(found):
            cured_s = self._strike(fault, phase, strike, found)
            ready_s = self._heal(fault, strike, cured_s)
            found.whole_s = time.monotonic() - cured_s
            self._judge(fault, phase, strike, before, found, ready_s)
        found.notes += stage.notes
        found.good = stage.traffic.good() - good
        return found

    def _strike(self, fault: Fault, phase: Phase, strike: Strike, found: Found) -> float:
        """Let it happen; return when it was cured."""
        phase.begin(strike)
        pause(strike, (0.0, phase.within_s))
        with fault.way(strike):
            pause(strike, fault.lasts_s)
            if phase.ends:
                self._ended(strike, found)
        cured_s = time.monotonic()
        agent = strike.agent
        assert agent.process is not None
        if not phase.ends and not strike.ended and agent.process.poll() is not None:
            words = f"the agent ended with {agent.process.returncode}"
            (found.notes if fault.may_end else found.wrong).append(words)
            strike.ended = True
        if phase.ends or strike.ended:
            agent.start()
        return cured_s

    def _ended(self, strike: Strike, found: Found) -> None:
        agent = strike.agent
        assert agent.process is not None
        family = agent.family()
        status = agent.process.wait(_END_S)
        if status != 0:
            found.wrong.append(f"the end has status {status}")
        wait_for(
            lambda: not [one for one in family if one.is_running() and one.status() != "zombie"],
            within_s=2,
            what="the end of the whole family",
        )

    def _heal(self, fault: Fault, strike: Strike, cured_s: float) -> float:
        """Wait until everything is as it was; return when readiness was first seen again."""
        stage, agent, watch = strike.stage, strike.agent, strike.watch
        limit_s = _AGAIN_S if strike.ended else fault.heals_within_s
        end_s = cured_s + limit_s + 20.0  # what a start and a machine at work add

        def within() -> float:
            return max(end_s - time.monotonic(), 0.1)

        wait_for(lambda: self._answers(watch, cured_s), within_s=within(), what="readiness")
        ready_s = self._answers(watch, cured_s)
        for role in stage.roles(agent):
            wait_for(lambda role=role: watch.alive(role), within_s=within(), what=f"actor {role}")  # type: ignore[misc]
        version = stage.push()
        wait_for(lambda: stage.serves(version), within_s=within(), what=f"the push of {version} at work")
        wait_for(lambda: oracle.certificates(agent), within_s=within(), what="a certificate in Envoy")
        stage.traffic.wait_good(within_s=within())
        wait_for(agent.is_ready, within_s=within(), what="readiness that lasts")
        return ready_s if fault.readiness_tells else time.monotonic()

    @staticmethod
    def _answers(watch: Watch, since_s: float) -> float:
        """Return when the agent, asked through Envoy, first said that it is ready; 0.0: not yet."""
        port = watch.agent.ready_port
        return next(
            (
                one.end_s
                for one in reversed(watch.answers[-4000:])
                if one.begin_s >= since_s and one.status == 200 and one.port == port
            ),
            0.0,
        )

    def _judge(  # noqa: PLR0917
        self, fault: Fault, phase: Phase, strike: Strike, before: Truth, found: Found, ready_s: float
    ) -> None:
        stage, agent = strike.stage, strike.agent
        log = oracle.said(agent, before)
        cuts = fault.cuts | phase.cuts
        if strike.ended:
            cuts |= frozenset(stage.traffic.tallies)
        tcp = frozenset({"tcp-kept"})
        excused = tcp if stage.variant in ("hot-restart", "files") else NOTHING
        window_s = (before.begin_s, ready_s)
        failures = stage.traffic.failures(before.begin_s)
        cut, failed = oracle.sort_failures(failures, cuts, window_s, excused)
        late = [one for one in failed if one.kind in cuts & {"dns", "wasm"}]  # not what readiness speaks of
        windows = oracle.overlaps(strike.watch, log, before.begin_s)
        windows += oracle.aborts(strike.watch, log, before.begin_s) if fault.aborts else []
        for begin_s, end_s in windows:
            late += [
                one for one in failed if one.begin_s <= end_s and one.end_s >= begin_s and one not in late
            ]
        cut, failed = cut + late, [one for one in failed if one not in late]
        found.cut, found.failed = len(cut), len(failed)
        found.wrong += [f"failed: {one}" for one in failed[:5]]
        for took_s, wrong in oracle.back(strike, log):
            found.back_s.append(took_s)
            found.wrong += [wrong] if wrong and not phase.ends else []
        found.wrong += oracle.lies(strike.watch, before.begin_s)
        found.wrong += strike.watch.lost_secrets(before.begin_s)
        for one in (stage.sidecar, stage.router):
            found.wrong += oracle.stacks(one, before)
        found.wrong += oracle.told(fault, phase, strike, log)
        found.wrong += _settled(lambda: oracle.leaks(agent, before.descriptors))
        found.wrong += _settled(lambda: oracle.litter(agent))


def _settled(look: Callable[[], list[str]], within_s: float = 12.0) -> list[str]:
    """Return what is still to be found after a while, in which an old epoch ends."""
    end_s = time.monotonic() + within_s
    while found := look():
        if time.monotonic() > end_s:
            return found
        time.sleep(0.1)
    return []


@contextmanager
def _noted(found: Found) -> Iterator[None]:
    """Note what broke the act off, and go on raising it: the stage is not whole any more."""
    try:
        yield
    except (AssertionError, OSError) as error:
        found.wrong.append(f"{type(error).__name__}: {error}")
        raise BrokenStageError(found) from error


class BrokenStageError(Exception):
    """The act could not be played to its end; `found` says how far it came."""

    def __init__(self, found: Found) -> None:
        super().__init__(found.wrong[-1])
        self.found = found


def agents_of(stage: Stage) -> dict[str, RealAgent]:
    return {"sidecar": stage.sidecar, "router": stage.router}
