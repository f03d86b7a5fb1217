"""Everything that must be in place before an Envoy is spawned, and that is removed after its end."""

import contextlib
import os
import re
import socket
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal

import msgspec

from pilot_agent.bootstrap import (
    BootstrapError,
    BootstrapOptions,
    HotRestart,
    envoy_arguments,
    lightstep_token_file,
    render,
)
from pilot_agent.envoy import bootstrap_file, hot_restart_version, memory_guard
from pilot_agent.envoy.bootstrap_file import Owner
from pilot_agent.envoy.model import Generation, Phase, Prepared
from pilot_agent.envoy.options import EnvoyOptions
from pilot_agent.envoy.shared_files import SharedFiles
from pilot_agent.log import get_logger

_log = get_logger()

_VALIDATE_S: Final = 30.0
_REVISION: Final = re.compile(r"^(?:.*/)?envoy-rev[0-9]*\.(?:json|yaml)$")


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor needs to start one Envoy."""

    argv: tuple[str, ...]
    environment: dict[str, str]


class FirstPrepared(msgspec.Struct, frozen=True):
    """A setting: what was put in place for the first Envoy when EnvoyActor did not live yet, if anything."""

    prepared: Prepared | None = None


class Launchpad:
    """Prepares generations and clears up after them; `hot_restart`: they can take over from each other."""

    def __init__(self, options: EnvoyOptions, bootstrap: BootstrapOptions) -> None:
        self._options, self._bootstrap = options, bootstrap
        self._owner = Owner(uid=options.uid, gid=options.gid)
        self.shared_files = SharedFiles(options.config_path, owner=self._owner)
        self._is_custom = bool(options.custom_config_file) or bootstrap.template is not None
        self._binaries: dict[
            int, hot_restart_version.Identity | None
        ] = {}  # base id → which file its newest Envoy is
        self._undeleted: set[str] = set()  # bootstraps that a read-only disk kept
        self.obstacle = ""
        if options.enabled and options.wants_hot_restart(custom_bootstrap=self._is_custom):
            self.obstacle = self.shared_files.obstacle()
            self.hot_restart = not self.obstacle
        else:
            self.hot_restart = False

    def remove_remains(self) -> None:
        """Remove what earlier agents left in the same directory. To be called while no Envoy is there."""
        bootstrap_file.remove_stale(self._options.config_path)
        dead = self.shared_files.remove_dead()
        if dead:
            _log.info(f"removed hot restart files of {len(dead)} ended Envoy base ids")

    def remove_own(self) -> None:
        """Remove what is left when the agent ends: no state tells of what was just being prepared."""
        bootstrap_file.remove_stale(self._options.config_path)
        self.shared_files.remove_dead()
        newest = self._path(None)
        if newest != self._options.custom_config_file:
            with contextlib.suppress(OSError):
                os.unlink(newest)  # noqa: PTH108  # a path, as all of them here

    def prepare(self, wanted: Generation, *, validate: bool, running_pid: int = 0) -> Prepared:
        """Put in place what `wanted` lacks. Blocks: files, and with `validate` a run of Envoy.

        `running_pid` is the Envoy that the new one would run beside.
        """
        known = wanted
        why: Literal["refused", "memory", "spoiled"] = "refused"
        try:
            if validate and (refusal := memory_guard.refusal(running_pid)):
                why = "memory"
            elif wanted.is_hot and (
                refusal := self.shared_files.heal(wanted.base_id) or self._stranger(wanted, running_pid)
            ):
                why = "spoiled"
            else:
                known = self._complete(wanted)
                self._write_bootstrap(known)
                refusal = self._validated(known) if validate else ""
                if not refusal:
                    self._binaries[known.base_id] = hot_restart_version.identity(self._options.binary_path)
        except BootstrapError as error:
            refusal = str(error)
        except OSError as error:
            refusal = str(BootstrapError.of_config(error))
        return Prepared(
            generation=known.generation,
            base_id=known.base_id,
            admin_port=known.admin_port,
            bootstrap_path=known.bootstrap_path,
            refusal=refusal,
            refused_for=why,
        )

    def launch(self, wanted: Generation) -> Launch:
        """Return program, arguments and variables of a prepared generation."""
        hot_restart = None
        if wanted.base_id:
            hot_restart = HotRestart(
                epoch=wanted.epoch,
                base_id=wanted.base_id,
                parent_shutdown_s=self._options.parent_shutdown_s,
                socket_path=self.shared_files.socket_path,
            )
        arguments = envoy_arguments(
            self._bootstrap, config_file=wanted.bootstrap_path, hot_restart=hot_restart
        )
        return Launch(
            argv=(self._options.binary_path, *arguments),
            environment=self._options.environment,
        )

    def clear(self, gone: Generation, *, base_id_is_free: bool) -> None:
        """Remove the files of a generation that is no more."""
        if base_id_is_free:
            self.shared_files.remove(gone.base_id)
        if not gone.bootstrap_path or gone.bootstrap_path == self._options.custom_config_file:
            return
        for path in (gone.bootstrap_path, *self._undeleted):
            try:
                bootstrap_file.remove(path, self._path(None))
                self._undeleted.discard(path)
            except OSError as error:
                if path not in self._undeleted:
                    _log.warn(f"failed to delete config file {path}: {error.strerror}")
                self._undeleted.add(path)

    def _complete(self, wanted: Generation) -> Generation:
        base_id, admin_port = wanted.base_id, wanted.admin_port
        if self.hot_restart and not base_id:
            base_id = self.shared_files.draw_base_id()
        if not admin_port:
            if self._is_custom:
                raise BootstrapError.of_config(
                    "a custom one has one admin port, and two Envoys cannot share it"
                )
            admin_port = _free_port(self._options.admin_host)
        path = self._options.custom_config_file or self._path(wanted.generation if self.hot_restart else None)
        return msgspec.structs.replace(wanted, base_id=base_id, admin_port=admin_port, bootstrap_path=path)

    def _stranger(self, wanted: Generation, running_pid: int) -> str:
        """Return why what is at Envoy's place cannot take over from the running Envoy; empty if it can."""
        program = self._options.binary_path
        if not running_pid or self._binaries.get(wanted.base_id) == hot_restart_version.identity(program):
            return ""
        return hot_restart_version.mismatch(program, running_pid)

    def _write_bootstrap(self, known: Generation) -> None:
        if self._options.custom_config_file:
            return
        temporary_port = known.admin_port if known.admin_port != self._options.admin_port else None
        content = render(
            self._bootstrap,
            generation=known.generation if self.hot_restart else None,
            admin_port=temporary_port,
        )
        token = self._bootstrap.tracing.get("lightstep", {}).get("accessToken", "")
        if token:
            bootstrap_file.write(lightstep_token_file(self._bootstrap), token.encode(), self._owner)
        bootstrap_file.write(known.bootstrap_path, content, self._owner)
        self._undeleted.discard(known.bootstrap_path)
        if self.hot_restart:
            bootstrap_file.point_newest(self._path(None), known.bootstrap_path)

    def _validated(self, known: Generation) -> str:
        from pilot_agent.envoy import validation  # noqa: PLC0415  # the first Envoy starts without it

        launch = self.launch(known)
        return validation.refusal(launch.argv, launch.environment, timeout_s=_VALIDATE_S)

    def _path(self, generation: int | None) -> str:
        return bootstrap_file.path_for(
            self._options.config_path, generation, suffix=self._bootstrap.file_suffix
        )


def recognized(
    generation: int, pid: int, create_time: float, argv: Sequence[str], admin_port: int
) -> Generation:
    """Return the generation that an Envoy's command line tells of, for one that no notebook knows."""
    options = dict(pairwise(argv))
    config = options.get("-c", "")
    return Generation(
        generation=generation,
        epoch=_number(options.get("--restart-epoch", "")),
        base_id=_number(options.get("--base-id", "")),
        admin_port=admin_port,
        phase=Phase.INITIALIZING,
        bootstrap_path=config if _REVISION.match(config) else "",
        pid=pid,
        create_time=create_time,
    )


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def process_arguments(pid: int) -> tuple[str, ...]:
    """Return the command line of a process, empty if it cannot be read."""
    try:
        descriptor = os.open(f"/proc/{pid}/cmdline", os.O_RDONLY)
        with os.fdopen(descriptor, "rb") as file:
            return tuple(word.decode("utf-8", "replace") for word in file.read().split(b"\0")[:-1])
    except OSError:
        return ()
