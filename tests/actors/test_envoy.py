"""EnvoyActor with a real Envoy: a supervisor of the test spawns it, a static bootstrap stands in for xDS."""

import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from actors.messages.cert import IdentityRotated
from actors.messages.control import EnvoyStopped, PeerRestarted, Quit, RestartAsked
from actors.messages.envoy import Draining, EnvoyCommand, EpochExited, EpochLive, EpochsHeld, EpochStarted
from pilot_agent.envoy import launch, memory_guard
from pilot_agent.envoy.shared_files import SharedFiles
from tests.support.envoy_rig import EnvoyRig, Load
from tests.support.real_envoy import envoy_path, get
from tests.support.said import Said
from tests.support.waiting import wait_for

pytestmark = pytest.mark.envoy

ROTATED = IdentityRotated(reason="due", serial_number="ab12", not_after_unix_s=0.0)
SHARED_MEMORY = Path("/dev/shm")
Make = Callable[..., EnvoyRig]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.chdir(tmp_path)
    rigs: list[EnvoyRig] = []

    def made(**settings: object) -> EnvoyRig:
        rig = EnvoyRig(tmp_path, settings=settings)
        rigs.append(rig)
        monkeypatch.setattr(launch, "render", rig.render)
        return rig

    yield made
    for rig in rigs:
        rig.end()
        left = shared_memory(rig)
        for name in left:
            (SHARED_MEMORY / name).unlink()
        assert left == []


@pytest.fixture
def rig(make: Make) -> EnvoyRig:
    return make().start()


def shared_memory(rig: EnvoyRig) -> list[str]:
    """Return the names of what the rig's Envoys have in shared memory."""
    names = {f"envoy_shared_memory_{base_id}0" for base_id in rig.base_ids()}
    return sorted(names & {each.name for each in SHARED_MEMORY.iterdir()})


def lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """Return level and text of the log lines so far."""
    return ["\t".join(line.split("\t")[1:]) for line in capfd.readouterr().out.splitlines()]


def live(rig: EnvoyRig, generation: int = 0, epoch: int | None = None) -> EnvoyRig:
    rig.await_heard(EpochLive(generation=generation, epoch=generation if epoch is None else epoch))
    return rig


def finished(rig: EnvoyRig) -> None:
    """End the agent, so that nothing is left."""
    rig.say(EnvoyCommand(verb="quit"))
    assert rig.await_end().exit_status == 0


def test_envoy_is_started_with_the_lines_of_the_reference_and_said_to_be_live(
    make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    rig = live(make().start())
    assert get(rig.port, "/")[1] == "ok"
    argv = rig.argv(0)
    assert argv[1:5] == ("-c", "etc/istio/proxy/envoy-rev0.json", "--restart-epoch", "0")
    assert lines(capfd) == [
        "info\tPilot SAN: [istiod.istio-system.svc]",
        "info\tStarting proxy agent",
        f"info\tEnvoy command: [{' '.join(argv[1:])}]",
    ]
    assert rig.heard(EpochStarted) == [
        EpochStarted(generation=0, epoch=0, pid=rig.pid(0), admin_port=rig.admin_port)
    ]
    assert rig.context.is_ready
    finished(rig)


def test_the_bootstrap_is_for_envoy_s_eyes_alone_and_the_plain_name_links_to_it(rig: EnvoyRig) -> None:
    live(rig)
    directory = Path("etc/istio/proxy")
    assert stat.S_IMODE((directory / "envoy-rev0.json").stat().st_mode) == 0o600
    assert (directory / "envoy-rev.json").readlink() == Path("envoy-rev0.json")
    finished(rig)
    assert rig.files() == []
    assert shared_memory(rig) == []


def test_a_rotation_moves_all_to_the_next_epoch_without_a_failed_request(rig: EnvoyRig) -> None:
    live(rig)
    with Load(rig.port) as load:
        wait_for(lambda: load.answers > 10)
        rig.say(ROTATED)
        live(rig, 1)
        assert {each.generation for each in rig.supervisor.alive.values()} == {0, 1}
        rig.await_heard(EpochExited(generation=0, epoch=0, status="exit status 0"))
        after = load.answers
        wait_for(lambda: load.answers > after + 10)
    assert load.failures == []
    assert rig.base_id(0) == rig.base_id(1)
    assert Path("etc/istio/proxy/envoy-rev.json").readlink() == Path("envoy-rev1.json")
    assert "envoy-rev0.json" not in rig.files()
    assert rig.context.counters["hot_restarts,reason=rotation"] == 1
    finished(rig)


def test_three_rotations_in_a_row_are_one_restart(rig: EnvoyRig) -> None:
    live(rig)
    for _ in range(3):
        rig.say(ROTATED)
    live(rig, 1)
    rig.await_heard(EpochExited(generation=0, epoch=0, status="exit status 0"))
    assert [each.generation for each in rig.supervisor.spawned] == [0, 1]
    finished(rig)


def test_a_sighup_and_an_operator_restart_envoy_too(rig: EnvoyRig) -> None:
    live(rig)
    rig.say(RestartAsked())
    live(rig, 1)
    rig.say(EnvoyCommand(verb="restart"))  # waits for the end of the old epoch
    live(rig, 2)
    assert rig.context.counters["hot_restarts,reason=signal"] == 1
    assert rig.context.counters["hot_restarts,reason=operator"] == 1
    finished(rig)


def test_a_killed_envoy_is_started_again_with_a_fresh_base_id(
    rig: EnvoyRig, capfd: pytest.CaptureFixture[str]
) -> None:
    live(rig)
    os.kill(rig.pid(0), signal.SIGKILL)
    rig.await_heard(EpochExited(generation=0, epoch=0, status="signal: killed"))
    live(rig, 1, epoch=0)
    assert get(rig.port, "/")[1] == "ok"
    assert rig.base_id(0) != rig.base_id(1)
    assert not any(str(rig.base_id(0)) in each for each in [*shared_memory(rig), *rig.files()])
    said = lines(capfd)
    assert "warn\tEnvoy may have been out of memory killed. Check memory usage and limits." in said
    assert "error\tEnvoy exited with error: signal: killed" in said
    finished(rig)


def test_with_policy_never_a_killed_envoy_ends_the_agent_with_0(make: Make) -> None:
    rig = live(make(restart_policy="never").start())
    os.kill(rig.pid(0), signal.SIGKILL)
    assert rig.await_end().exit_status == 0
    assert len(rig.supervisor.spawned) == 1


def test_an_envoy_that_is_not_there_ends_the_agent_with_0(
    make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    rig = make(binary_path="/no/such/envoy").start()
    assert rig.await_end().exit_status == 0
    assert "error\tEnvoy exited with error: fork/exec /no/such/envoy: no such file or directory" in lines(
        capfd
    )
    assert rig.files() == []


def test_a_bootstrap_that_cannot_be_written_is_fatal(make: Make, tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("a file where a directory should be")
    rig = make(rotation_policy="sds").start()
    reason = wait_for(lambda: rig.context.fatal_reason)
    assert reason.startswith("failed to initialize envoy agent: failed to generate bootstrap config: ")
    assert rig.supervisor.spawned == []


def test_policy_sds_runs_envoy_as_the_reference_does_and_rotations_start_nothing(make: Make) -> None:
    rig = live(make(rotation_policy="sds").start())
    argv = rig.argv(0)
    assert argv[1:3] == ("-c", "etc/istio/proxy/envoy-rev.json")
    assert "--disable-hot-restart" in argv
    assert "--base-id" not in argv
    assert not Path("etc/istio/proxy/envoy-rev.json").is_symlink()
    rig.say(ROTATED).say(RestartAsked())
    wait_for(lambda: rig.context.counters.get("hot_restart_refused,reason=disabled"))
    assert len(rig.supervisor.spawned) == 1
    finished(rig)
    assert rig.files() == []


def test_without_usable_shared_memory_envoy_runs_without_hot_restart(
    make: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SharedFiles, "obstacle", lambda _: "/dev/shm is not writable: Read-only file system")
    rig = live(make().start())
    assert "--disable-hot-restart" in rig.argv(0)
    assert len([line for line in lines(capfd) if "/dev/shm is not writable" in line]) == 1
    assert rig.context.counters["hot_restart_refused,reason=unusable"] == 1
    finished(rig)


# Restarts that fail


def test_a_bootstrap_that_envoy_refuses_leaves_the_running_epoch_and_its_base_id_good(rig: EnvoyRig) -> None:
    live(rig)
    rig.broken.add(1)
    rig.say(RestartAsked())
    wait_for(lambda: rig.context.counters.get("hot_restart_refused,reason=refused"))
    assert get(rig.port, "/")[1] == "ok"
    assert [each.generation for each in rig.supervisor.spawned] == [0]
    rig.say(RestartAsked())  # the next number is not broken
    live(rig, 2, epoch=1)
    finished(rig)


def test_after_a_failed_epoch_the_base_id_is_healed_and_not_one_request_fails(rig: EnvoyRig) -> None:
    live(rig)
    rig.clashing.add(1)
    with Load(rig.port) as load:
        rig.say(RestartAsked())
        wait_for(lambda: rig.context.counters.get("hot_restart_failed,reason=signal"), within_s=20)
        assert rig.pid(0)
        live(rig, 2, epoch=1)  # by itself, and soon: the failed epoch had shut the old one's admin port down
        assert rig.base_id(2) == rig.base_id(0)
        assert get(rig.admin_port, "/ready")[1] == "LIVE\n"
        rig.await_heard(EpochExited(generation=0, epoch=0, status="exit status 0"))
        after = load.answers
        wait_for(lambda: load.answers > after + 10)
    assert load.failures == []
    assert load.answers > 100
    finished(rig)


def test_where_the_base_id_is_lost_a_fresh_one_overlaps_and_the_admin_port_comes_back(
    rig: EnvoyRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(rig)
    rig.clashing.add(1)
    monkeypatch.setattr(SharedFiles, "heal", lambda *_: "of another version" if 1 in rig.spawned else "")
    with Load(rig.port) as load:
        rig.say(RestartAsked())
        live(rig, 3, epoch=0)
        assert rig.base_id(3) != rig.base_id(0)
        started = rig.heard(EpochStarted)[-1]
        assert started.admin_port != rig.admin_port
        assert get(started.admin_port, "/ready")[1] == "LIVE\n"
        old = psutil.Process(rig.pid(0))  # its admin port is gone, so it is told over its own socket
        wait_for(lambda: rig.port not in {each.laddr.port for each in old.net_connections("tcp4")})
        monkeypatch.undo()
        monkeypatch.chdir(rig.directory)
        monkeypatch.setattr(launch, "render", rig.render)
        live(rig, 4, epoch=1)
        assert rig.base_id(4) == rig.base_id(3)
        assert rig.heard(EpochStarted)[-1].admin_port == rig.admin_port
        assert get(rig.admin_port, "/ready")[1] == "LIVE\n"
    assert load.answers > 100
    assert load.failures == []
    finished(rig)


_OF_ANOTHER_VERSION = """#!/bin/sh
case " $* " in *" --hot-restart-version "*) echo 99.1 >&2; exit 0;; esac
for word; do
    test "$last" = --base-id && base_id=$word
    test "$last" = --restart-epoch && epoch=$word
    last=$word
done
if test "${{epoch:-0}}" = 0; then
    echo >{place}/$base_id
elif ! test -e {place}/$base_id; then
    echo "assert failure: shmem->version_ == HOT_RESTART_VERSION"
    kill -ABRT $$
fi
exec {envoy} "$@"
"""


def test_an_envoy_of_another_hot_restart_version_overlaps_and_never_meets_the_running_one(
    make: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "envoy"
    program.symlink_to(envoy_path())
    rig = make(binary_path=str(program)).start()
    live(rig)
    program.unlink()
    program.write_text(_OF_ANOTHER_VERSION.format(place=tmp_path, envoy=envoy_path()))
    program.chmod(0o755)
    with Load(rig.port) as load:
        rig.say(RestartAsked())
        live(rig, 2, epoch=0)
        live(rig, 3, epoch=1)  # the admin port comes back, by a hot restart among the new ones
    assert rig.base_id(2) == rig.base_id(3) != rig.base_id(0)
    assert rig.spawned == {0, 2, 3}  # none was started to find it out
    (told,) = [line for line in lines(capfd) if "hot restart version" in line]
    assert f"the running epoch stays: {program} has hot restart version 99.1, the running Envoy 11." in told
    assert get(rig.admin_port, "/ready")[1] == "LIVE\n"
    assert [failure for failure in load.failures if "ConnectionResetError" not in failure] == []
    finished(rig)


def test_without_memory_for_two_nothing_is_started_and_the_reason_is_counted(
    rig: EnvoyRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(rig)
    monkeypatch.setattr(memory_guard, "refusal", lambda pid: f"none beside {pid}")
    rig.say(RestartAsked())
    wait_for(lambda: rig.context.counters.get("hot_restart_refused,reason=memory"))
    assert [each.generation for each in rig.supervisor.spawned] == [0]
    assert get(rig.port, "/")[1] == "ok"
    finished(rig)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_whatever_kills_envoy_it_serves_again_within_two_seconds(rig: EnvoyRig, number: int) -> None:
    live(rig)
    began_s = time.monotonic()
    os.kill(rig.pid(0), number)
    live(rig, 1, epoch=0)
    assert get(rig.port, "/")[1] == "ok"
    assert time.monotonic() - began_s < 2.0
    finished(rig)


def test_a_stopped_envoy_serves_again_within_two_seconds(rig: EnvoyRig) -> None:
    live(rig)
    began_s = time.monotonic()
    envoy = psutil.Process(rig.pid(0))
    envoy.send_signal(signal.SIGSTOP)
    wait_for(lambda: envoy.status() == psutil.STATUS_STOPPED, what="the stop, of all its threads")
    rig.say(EnvoyStopped(process=next(iter(rig.supervisor.alive.values())), stopped=True))
    wait_for(lambda: get(rig.port, "/")[1] == "ok")
    assert time.monotonic() - began_s < 2.0
    assert rig.context.counters["envoy_continued,reason=stopped"] == 1
    finished(rig)


# The end


def test_a_quit_drains_and_ends_envoy_with_the_lines_of_the_reference(
    rig: EnvoyRig, capfd: pytest.CaptureFixture[str]
) -> None:
    live(rig)
    lines(capfd)
    rig.say(Quit(deadline_s=30.0))
    end = rig.await_end()
    assert (end.exit_status, end.reason) == (0, "signal received")
    assert lines(capfd) == [
        "info\tAgent draining Proxy for termination",
        "info\tGraceful termination period is 300ms, starting...",
        "info\tGraceful termination period complete, terminating remaining proxies.",
        "warn\tAborting proxy",
        "info\tEnvoy aborted normally",
        "warn\tAborted proxy instance",
        "info\tAgent has successfully terminated",
    ]
    assert rig.heard(Draining) == [Draining(cause="signal received")]
    assert "caught ENVOY_SIGTERM" in rig.envoy_log()
    assert rig.files() == []


def test_a_quit_answers_other_messages_while_it_drains(make: Make) -> None:
    rig = live(make(termination_drain_s=60.0).start())
    rig.say(Quit(deadline_s=100.0))
    wait_for(lambda: rig.heard(Draining))
    rig.say(PeerRestarted(role="health", incarnation=2))
    wait_for(lambda: [held for held in rig.heard(EpochsHeld) if held.draining])
    finished(rig)  # /quitquitquit shortens it


def test_after_a_drain_a_quit_is_immediate(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    rig = live(make(termination_drain_s=60.0).start())
    rig.say(EnvoyCommand(verb="drain"))
    began_s = time.monotonic()
    rig.say(Quit(deadline_s=100.0))
    rig.await_end()
    assert time.monotonic() - began_s < 10
    assert "info\tAgent already drained, exiting immediately" in lines(capfd)


def test_a_quit_while_the_supervisor_holds_the_spawn_back_leaves_no_envoy(make: Make) -> None:
    rig = make()
    rig.supervisor.holds_spawns.set()
    rig.start()
    wait_for(lambda: any(type(each).__name__ == "SpawnEnvoy" for each in rig.context.told_supervisor))
    rig.say(Quit(deadline_s=30.0))
    rig.await_end()
    rig.supervisor.inbox.put("release")
    wait_for(lambda: rig.supervisor.spawned and not rig.supervisor.alive, what="the late Envoy's end")
    wait_for(lambda: rig.files() == [], what="the late Envoy's files being gone")


def test_a_quit_while_the_first_envoy_is_prepared_leaves_no_file(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make()

    def asked_to_quit_meanwhile(*arguments: object, **more: int | None) -> bytes:
        rig.say(Quit(deadline_s=30.0))
        return rig.render(*arguments, **more)

    monkeypatch.setattr(launch, "render", asked_to_quit_meanwhile)
    assert rig.start().await_end().exit_status == 0
    assert rig.files() == []
    assert rig.supervisor.spawned == []


def test_with_zero_active_connections_the_end_comes_without_the_drain_period(make: Make) -> None:
    rig = make(exit_on_zero_active_connections=True, minimum_drain_s=0.2, termination_drain_s=60.0)
    live(rig.start())
    rig.say(Quit(deadline_s=100.0))
    assert rig.await_end().exit_status == 0


# EnvoyActor is restarted


def test_a_restarted_actor_finds_its_envoy_and_restarts_nothing(rig: EnvoyRig) -> None:
    live(rig)
    pid = rig.pid(0)
    rig.kill_actor()
    rig.start()
    held = EpochsHeld(
        started=(EpochStarted(generation=0, epoch=0, pid=pid, admin_port=rig.admin_port),),
        live_generations=(0,),
        draining=False,
    )
    rig.await_heard(held)
    assert [each.generation for each in rig.supervisor.spawned] == [0]
    rig.say(ROTATED)  # and it can still hot-restart it
    live(rig, 1)
    finished(rig)


def test_an_actor_whose_notebook_is_lost_recognizes_its_envoy_by_the_command_line(rig: EnvoyRig) -> None:
    live(rig)
    rig.kill_actor()
    rig.notebook = type(rig.notebook)()
    rig.start()
    live(rig, 0)
    rig.say(ROTATED)
    live(rig, 1)
    assert rig.base_id(0) == rig.base_id(1)
    assert [each.generation for each in rig.supervisor.spawned] == [0, 1]
    finished(rig)


def test_an_envoy_that_died_while_the_actor_was_away_is_started_again(rig: EnvoyRig) -> None:
    live(rig)
    rig.kill_actor()
    os.kill(rig.pid(0), signal.SIGKILL)
    wait_for(lambda: rig.supervisor.ended)
    rig.start()
    live(rig, 1, epoch=0)
    wait_for(lambda: not rig.supervisor.ended, what="EnvoyEndNoted")
    finished(rig)


def test_a_restarted_actor_goes_on_with_the_drain(make: Make) -> None:
    rig = live(make(termination_drain_s=1.0).start())
    began_s = time.monotonic()
    said = Said()
    rig.say(Quit(deadline_s=30.0))
    wait_for(lambda: "Graceful termination period is 1s, starting..." in said)
    rig.kill_actor()
    rig.start()
    rig.await_end()
    assert 1.0 <= time.monotonic() - began_s < 10
