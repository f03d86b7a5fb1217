"""The bootstrap file: written whole, readable by Envoy alone, removed after its end."""

import contextlib
import os
from pathlib import Path
from typing import Final

import msgspec

_STALE: Final = (
    "envoy-rev[0-9]*.json",
    "envoy-rev[0-9]*.yaml",
    ".envoy-rev*.[0-9]*",
    ".hr-base-ids.[0-9]*",
    ".pilot-agent-[0-9]*",
)


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a file is given to; -1 leaves it as it is."""

    uid: int = -1
    gid: int = -1


def path_for(directory: str, generation: int | None, *, suffix: str = "json") -> str:
    """Return `envoy-rev.json`, or with a generation `envoy-rev{N}.json`.

    N is the generation, not the epoch: epochs start again at 0 with a new base id, while the file of an
    epoch that still drains keeps its name. The two are equal as long as no Envoy has failed.
    """
    number = "" if generation is None else str(generation)
    return str(Path(directory) / f"envoy-rev{number}.{suffix}")


def write(path: str, content: bytes, owner: Owner, *, mode: int = 0o600) -> None:
    """Put `content` at `path`; a reader sees the old file or the new one, never a part.

    The directory is made with mode 0700 if it is missing.

    Raises:
        OSError: the directory or the file cannot be written.
    """
    target = Path(path)
    make_directory(target.parent, owner)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            _give(descriptor, owner)
            file.write(content)
        draft.rename(target)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def make_directory(directory: Path, owner: Owner) -> None:
    """Make `directory` with mode 0700 for `owner`; one that exists is left as it is.

    Raises:
        OSError: it cannot be made.
    """
    if directory.is_dir():
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    if owner.uid >= 0:
        os.chown(directory, owner.uid, owner.gid)


def point_newest(link: str, path: str) -> None:
    """Make `link` a symbolic link to `path`, which stands in the same directory.

    Raises:
        OSError: the link cannot be made.
    """
    place = Path(link)
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    draft.symlink_to(Path(path).name)
    draft.replace(place)


def remove(path: str, link: str | None = None) -> None:
    """Remove the file, and the link if it points to it.

    Raises:
        OSError: a file that exists cannot be removed.
    """
    if link is not None and Path(link).is_symlink() and os.readlink(link) == Path(path).name:  # noqa: PTH115
        Path(link).unlink(missing_ok=True)
    Path(path).unlink(missing_ok=True)


def remove_stale(directory: str) -> None:
    """Remove the numbered files of an agent whose Envoys have all ended, and the drafts of one killed."""
    for pattern in _STALE:
        for stale in Path(directory).glob(pattern):
            with contextlib.suppress(OSError):
                stale.unlink()


def _give(descriptor: int, owner: Owner) -> None:
    if owner.uid >= 0:
        os.fchown(descriptor, owner.uid, owner.gid)
