"""Runs a program as in a locked-down pod: everything read-only but the named places, no /tmp, uid 1337.

    python sealed.py [--memory rw|ro] [--write DIR]... -- PROGRAM ARGUMENT...

Called by root in the pod's directory, which becomes the program's working directory under another name.
`--write` names the places below it that stay writable; `--memory` says how /dev/shm is mounted. All of
it happens in a mount namespace of its own. What the program needs and its user cannot reach (an
interpreter below a closed home directory) is put in its place by itself, and nothing around it.
"""

import argparse
import contextlib
import ctypes
import os
import site
import sys
from pathlib import Path

NEW_NAMESPACE = 0x20000
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18
POD = Path("/mnt/pod")
UID = 1337
LEFT_ALONE = ("/proc", "/dev", "/sys")

_libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(source: str, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    result = _libc.mount(source.encode(), str(target).encode(), kind.encode(), flags, options.encode())
    check(result, f"mount {source} on {target}")


def held(path: Path) -> str:
    """Return a name for a directory that stays good when its path is covered."""
    return f"/proc/self/fd/{os.open(path, os.O_PATH | os.O_DIRECTORY)}"


def memory_on(target: Path, mode: str) -> None:
    mount("sealed", target, "tmpfs", 0, f"mode={mode}")


def closed_above(path: Path) -> Path | None:
    """Return the outermost directory that bars others from reaching `path`."""
    for each in reversed(path.parents):
        if not each.stat().st_mode & 0o001:
            return each
    return None


def cover(hidden: Path, needed: dict[Path, str]) -> None:
    """Put an empty directory over `hidden`, with what is needed below it in its place."""
    memory_on(hidden, "755")
    for path, source in needed.items():
        if hidden in path.parents:
            path.mkdir(parents=True, exist_ok=True)
            mount(source, path, flags=BIND | RECURSIVE)


def seal(writable: set[Path]) -> None:
    """Make every mount read-only but these."""
    points = [Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in points:
        if point in writable or (str(point).startswith(LEFT_ALONE) and point != Path("/dev/shm")):
            continue
        with contextlib.suppress(OSError):  # covered by another mount; what counts is looked at below
            mount("", point, flags=BIND | REMOUNT | READ_ONLY)
    for point in (Path("/"), Path("/tmp"), Path("/var/tmp"), POD):
        if not os.statvfs(point).f_flag & os.ST_RDONLY:
            raise SystemExit(f"sealed: {point} is still writable")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", choices=("rw", "ro"), default="rw")
    parser.add_argument("--write", action="append", default=[])
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args()
    check(_libc.unshare(NEW_NAMESPACE), "unshare")
    mount("", Path("/"), flags=RECURSIVE | PRIVATE)
    pod = held(Path.cwd())
    places = {POD / place: held(Path(place)) for place in asked.write}
    libraries = [Path(each) for each in site.getsitepackages() if Path(each).is_dir()]
    needed = {
        path: held(path)
        for path in (Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[2], *libraries)
    }
    hidden = {above for path in needed if (above := closed_above(path)) is not None}
    for path in sorted({*hidden, Path("/tmp"), Path("/var/tmp")}):
        cover(path, needed)
    memory_on(POD.parent, "755")
    POD.mkdir()
    mount(pod, POD, flags=BIND)
    for place, source in places.items():
        mount(source, place, flags=BIND)
    memory_on(Path("/dev/shm"), "1777")
    seal({*places, *([Path("/dev/shm")] if asked.memory == "rw" else [])})
    os.chdir(POD)
    drop = (f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs", "--bounding-set=-all")
    os.execvp("setpriv", ("setpriv", *drop, *asked.command))


if __name__ == "__main__":
    main()
