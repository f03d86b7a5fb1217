"""What a supervisor begins with: new channels and notebooks, or all that the version before has left."""

import os
import signal
import time
from collections.abc import Iterable, Mapping

from actors.messages.control import EnvoyInventory
from actors.runtime import leash
from actors.runtime.channels import ChannelTable, seqpacket_pair
from actors.runtime.control import ControlEnd
from actors.runtime.envoys import EnvoyKeeper
from actors.runtime.family import Child, Family, Running
from actors.runtime.handover import HandedActor, HandedWorker, Handover, Launch
from actors.runtime.notebook import make_notebook_file
from actors.runtime.roles import CHANNELS, Role
from actors.runtime.specs import ChildSpec


def family(specs: Iterable[ChildSpec], taken: Handover | None) -> Family:
    """Return a record for each actor; one that the version before had goes on where it was.

    An actor that this version does not know is ended.
    """
    handed = {actor.role: actor for actor in taken.actors} if taken is not None else {}
    found = {spec.role: _child(spec, handed.pop(spec.role, None)) for spec in specs}
    for actor in handed.values():
        if actor.pid:
            os.kill(actor.pid, signal.SIGKILL)
    return found


def channels(taken: Handover | None) -> ChannelTable:
    """Return the channels that this version knows; those that the one before had are the same ones."""
    if taken is None:
        return ChannelTable.make()
    known = {(sender, to): (write, read) for sender, to, write, read in taken.channels}
    return ChannelTable({pair: known.get(pair) or seqpacket_pair() for pair in CHANNELS})


def envoys(taken: Handover | None) -> EnvoyKeeper:
    """Return the keeper of the Envoys that are this process's children."""
    if taken is None:
        return EnvoyKeeper()
    leash.adopt(taken.leash)
    return EnvoyKeeper(taken.envoys, taken.envoys_ended)


def workers(taken: Handover | None) -> dict[int, tuple[Role, int]]:
    """Return the workers that somebody waits for, by pid."""
    found = taken.workers if taken is not None else ()
    known = {role.value for role in Role}
    return {one.pid: (Role(one.role), one.worker_id) for one in found if one.role in known}


def hand_over(  # noqa: PLR0917  # the supervisor's parts, in its own order
    family: Family,
    channels: ChannelTable,
    envoys: EnvoyInventory,
    workers: Mapping[int, tuple[Role, int]],
    kept: tuple[int, ...],
    way_back: tuple[Launch | None, str],
) -> Handover:
    """Return everything as the next version takes it."""
    return Handover(
        actors=tuple(_handed(child) for child in family.values()),
        channels=tuple((str(sender), str(to), *ends) for (sender, to), ends in channels.ends.items()),
        envoys=envoys.alive,
        envoys_ended=envoys.ended,
        workers=tuple(
            HandedWorker(pid=pid, role=role, worker_id=number) for pid, (role, number) in workers.items()
        ),
        kept=kept,
        leash=leash.ends(),
        knows_estates=True,
        back=way_back[0],
        reason=way_back[1],
    )


def _handed(child: Child) -> HandedActor:
    running = child.running
    return HandedActor(
        role=child.spec.role,
        incarnation=child.incarnation,
        notebook=child.notebook,
        handed_down=child.handed_down,
        pid=running.pid if running is not None else 0,
        control=running.control.fileno() if running is not None else -1,
    )


def _child(spec: ChildSpec, handed: HandedActor | None) -> Child:
    if handed is None:
        return Child(spec, make_notebook_file(spec.role))
    child = Child(spec, handed.notebook, incarnation=handed.incarnation, handed_down=handed.handed_down)
    if handed.pid:
        child.running = Running(
            handed.pid, os.pidfd_open(handed.pid), ControlEnd(handed.control), time.monotonic(), ready=True
        )
    return child
