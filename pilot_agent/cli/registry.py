"""Finds the commands in `pilot_agent/cli/commands/`, importing no more of them than needed."""

import os
from importlib import import_module

from pilot_agent.cli import commands
from pilot_agent.cli.command import PROGRAM, Command


def find_command(name: str) -> Command | None:
    """Return the command of this name, None when there is none."""
    return _load(name) if name in command_names() else None


def all_commands() -> list[Command]:
    """Return every command, hidden ones too, sorted by name."""
    return [_load(name) for name in command_names()]


def command_names() -> list[str]:
    """Return the names of all commands, sorted: those of the files, `_` standing for `-`."""
    files = (file for folder in commands.__path__ for file in os.listdir(folder))  # noqa: PTH208
    stems = (file.removesuffix(".py") for file in files if file.endswith(".py") and file != "__init__.py")
    return sorted(_name_of(stem) for stem in stems)


def root_command() -> Command:
    """Return the program itself, which prints its help."""
    return Command(
        use=PROGRAM,
        short="Istio's proxy agent.",
        long="Runs beside Envoy in a sidecar or gateway: configures it, keeps its certificates fresh, "
        "feeds it from istiod.",
        drops_unknown_flags=True,
        parent="",
    )


def _load(name: str) -> Command:
    command = import_module(f"{commands.__name__}.{_stem_of(name)}").COMMAND
    assert isinstance(command, Command)
    assert command.name == name, f"{command.name} lives in the file of {name}"
    return command


def _name_of(stem: str) -> str:
    return stem if stem.startswith("__") else stem.replace("_", "-")


def _stem_of(name: str) -> str:
    return name.replace("-", "_")
