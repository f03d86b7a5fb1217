"""Failures of all kinds, drawn at random, one into the other: no request fails, and all is well afterwards.

`--seconds` says for how long, `--seed` repeats a run's draw.
"""

import http.client
import os
import random
import signal
import time

import pytest

from tests.scenarios.conftest import World
from tests.support.agent import ROLES, RealAgent
from tests.support.load import Load
from tests.support.real_envoy import get
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

SPLITS = ({"v1": 50, "v3": 50}, {"v1": 100}, {"v3": 100})


class Chaos:
    """One failure after the other; `told` has what was done."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.told = world, [f"seed {seed}"]
        self._draw = random.Random(seed)

    def once(self) -> None:
        names = ("kill", "freeze", "push", "disconnect", "restart_istiod", "hot_restart")
        (name,) = self._draw.choices(names, weights=(10, 2, 4, 2, 1, 1))
        self.told.append(f"{time.monotonic():.3f}: {name} {getattr(self, name)()}")

    def patience(self) -> int:
        """Return how many requests are to be answered before the next failure."""
        return self._draw.choice((1, 10, 50, 200))

    def kill(self) -> str:
        return self._signal(signal.SIGKILL)

    def freeze(self) -> str:
        return self._signal(signal.SIGSTOP)

    def push(self) -> str:
        split = self._draw.choice(SPLITS)
        self.world.istiod.push(self.world.mesh.with_split("reviews", split))
        return str(split)

    def disconnect(self) -> None:
        self.world.istiod.disconnect_all()

    def restart_istiod(self) -> None:
        self.world.istiod.restart()

    def hot_restart(self) -> str:
        agent = self._agent()
        connection = http.client.HTTPConnection("127.0.0.1", agent.status_port, timeout=10)
        try:
            connection.request("POST", "/restart")
            return f"{agent.directory.name}: {connection.getresponse().status}"
        except (OSError, http.client.HTTPException) as error:  # its actor was killed a moment ago
            return f"{agent.directory.name}: {error}"
        finally:
            connection.close()

    def _signal(self, number: signal.Signals) -> str:
        agent, role = self._agent(), self._draw.choice(ROLES)
        pid = agent.actor(role)
        if pid is None:  # it is being restarted
            return f"{agent.directory.name}: {role} was not there"
        os.kill(pid, number)
        return f"{agent.directory.name}: {role} {pid}"

    def _agent(self) -> RealAgent:
        return self._draw.choice((self.world.sidecar, self.world.router))


def all_is_well(world: World) -> bool:
    agents = (world.sidecar, world.router)
    return all(agent.is_ready() and len(agent.envoys()) == 1 for agent in agents) and all(
        agent.actor(role) for agent in agents for role in ROLES
    )


@pytest.mark.timeout(0)
def test_whatever_fails_and_whenever_no_request_does(world: World, pytestconfig: pytest.Config) -> None:
    chaos = Chaos(world, pytestconfig.getoption("--seed"))
    end_s = time.monotonic() + pytestconfig.getoption("--seconds")
    with Load(world.port, "/productpage", keep_alive=2, new_connections=2) as load:
        load.wait_more(100)
        while time.monotonic() < end_s and not load.failures:
            chaos.once()
            load.wait_more(chaos.patience(), within_s=30)
        wait_for(lambda: all_is_well(world), within_s=60, what="both agents with all actors and one Envoy")
        world.istiod.push(world.mesh.with_split("reviews", {"v2": 100}))
        wait_for(
            lambda: {get(world.port, "/reviews/0")[0]["x-served-by"] for _ in range(10)} == {"reviews-v2"},
            within_s=40,
            what="the last push at work",
        )
    assert load.failures == [], "\n".join(chaos.told)
    assert world.istiod.observed.nack_messages() == []
