"""`bin/demo` from here on: checks, steps, and staying up."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from lab.demo import kills, layout, preflight, rotation, steps
from lab.demo.agent import Agent
from lab.demo.show import Progress, StepFailedError, say
from lab.demo.stage import Stage
from lab.envoy_binary import find_envoy

_STEPS = 10


class _StoppedError(Exception):
    """Somebody wants the demo to end."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bin/demo", description="Shows pilot-agent at work on this machine."
    )
    parser.add_argument("--once", action="store_true", help="end after the last step; 0 only if all held")
    parser.add_argument(
        "--port-shift", type=int, default=0, metavar="N", help="add N to every port, 1000 for example"
    )
    options = parser.parse_args(arguments)
    stage = Stage(port_shift=options.port_shift)
    proxies = (stage.router.proxy, stage.sidecar.proxy)
    problems = list(preflight.complaints(layout.all_ports(stage.mesh, stage.istiod_port, *proxies)))
    if problems:
        sys.stderr.write("".join(f"bin/demo: {problem}\n" for problem in problems))
        return 1
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    progress = Progress(_STEPS)
    try:
        with stage:
            _run(stage, progress)
            _conclude(progress, stage, stays=not options.once)
    except _StoppedError:
        say("", "ended before all steps were done" if progress.done < _STEPS else "ended")
        return 130 if progress.done < _STEPS else 0
    except StepFailedError:
        _conclude(progress, stage, stays=False)
    return 1 if progress.failed else 0


def _run(stage: Stage, progress: Progress) -> None:
    """Take all steps. One that something stands on ends the demo when it fails, the others do not."""
    envoy = find_envoy()

    def needed(title: str, take: Callable[[], list[str]]) -> None:
        with progress.step(title) as notes:
            notes.extend(take())
        if progress.failed:
            raise StepFailedError(title)

    def shown(title: str, take: Callable[[], list[str]]) -> None:
        with progress.step(title) as notes:
            notes.extend(take())

    needed("control plane of the lab", lambda: _control_plane(stage))
    needed("bookinfo: productpage, details, ratings, reviews v1 to v3", lambda: _bookinfo(stage))
    for agent in (stage.router, stage.sidecar):
        stage.start_agent(agent, envoy)
    needed("pilot-agent proxy router, with its Envoy", lambda: _ready(stage.router))
    needed("pilot-agent proxy sidecar, with its Envoy", lambda: _ready(stage.sidecar))
    needed(
        "one request: gateway → mTLS → sidecar → application",
        lambda: [*steps.one_request(stage), *rotation.look_at_the_first(stage)],
    )
    shown("100 requests to reviews", lambda: steps.split(stage))
    shown("how the two roles differ", lambda: steps.roles(stage))
    shown("each actor of the sidecar's agent killed with SIGKILL, under load", lambda: kills.kill_each(stage))
    shown("a push, after all that", lambda: steps.push(stage))
    shown("a certificate rotation, under load", lambda: rotation.rotate(stage))


def _control_plane(stage: Stage) -> list[str]:
    stage.istiod.start()
    return [f"on {stage.istiod.address}; it is for trying out, in a mesh istiod does this job"]


def _bookinfo(stage: Stage) -> list[str]:
    stage.start_bookinfo()
    return []


def _ready(agent: Agent) -> list[str]:
    seconds = agent.wait_ready()
    actors = ", ".join(f"{role} {pid}" for role, pid in agent.actors().items())
    return [f"ready {seconds:.2f} s after its start; supervisor {agent.pid}, {actors}"]


def _conclude(progress: Progress, stage: Stage, *, stays: bool) -> None:
    say("")
    if progress.failed:
        say(*(f"did not hold: {title}" for title in progress.failed), f"logs: {stage.run}/*/agent.log")
    else:
        say("every step held")
    if stays:
        say("", "to look at, until Ctrl-C:", *(f"  {line}" for line in _urls(stage)))
        signal.pause()


def _urls(stage: Stage) -> list[str]:
    lines = [f"http://127.0.0.1:{stage.gateway_port}/productpage   bookinfo through the gateway; reload it"]
    for agent in (stage.router, stage.sidecar):
        proxy = agent.proxy
        lines += [
            f"http://127.0.0.1:{proxy.status_port}/status        {proxy.role}: the tree of actors",
            f"http://127.0.0.1:{proxy.status_port}/metrics       {proxy.role}: metrics of agent and Envoy",
            f"http://127.0.0.1:{proxy.envoy_status_port}/healthz/ready {proxy.role}: readiness through Envoy",
            f"http://127.0.0.1:{proxy.admin_port}/config_dump   {proxy.role}: all that Envoy was told",
            f"{proxy.directory}/agent.log",
        ]
    return lines


def _end(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough; the end takes its time
    raise _StoppedError


if __name__ == "__main__":
    sys.exit(main())
