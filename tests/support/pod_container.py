"""One container of a pod, or one command in a running container: what a container runtime does.

    python -m tests.support.pod_container SPECIFICATION.json

Started by root, outside all namespaces. The program is process 1 of a PID namespace of its own; this
process stays as its parent, prints its pid as seen from outside once it runs, passes its status on, and
takes it along when it is killed.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.support import namespaces as ns
from tests.support.pod_sandbox import MEMORY, VOLUMES

NEW_ROOT = Path("/mnt/root")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "SETGID": 6,
    "SETUID": 7,
    "NET_ADMIN": ns.NET_ADMIN,
    "NET_RAW": ns.NET_RAW,
    "NET_BIND_SERVICE": ns.NET_BIND_SERVICE,
}


def main(path: str) -> int:
    # Any: JSON that tests.support.pod wrote
    wish: dict[str, Any] = json.loads(Path(path).read_text())
    ns.die_with_parent()
    log = os.open(wish["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.fchown(log, wish["uid"], wish["gid"])  # runtimes do it too, so that /dev/stdout can be opened
    for file in wish["cgroups"]:
        Path(file).write_text(str(os.getpid()))
    ns.enter(wish["sandbox"], "net", "ipc", "uts")
    if wish["inside"]:
        ns.enter(wish["inside"], "pid", "mnt")
    else:
        ns.enter(wish["sandbox"], "mnt")
        ns.unshare(ns.NEW_MOUNT | ns.NEW_PID)
        ns.make_mounts_private()
    running, starting = os.pipe()
    child = os.fork()
    if child == 0:
        _be(wish, log)
    os.close(starting)
    os.read(running, 1)  # nothing comes: it ends when the program runs, which a hook may not come before
    os.write(1, f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _be(wish: dict[str, Any], log: int) -> None:  # never returns
    try:
        ns.die_with_parent()
        if not wish["inside"]:
            _build_root(wish)
            ns.pivot_root(NEW_ROOT)
        os.chdir("/")
        os.umask(0o022)
        os.dup2(os.open("/dev/null", os.O_RDWR), 0)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.setsid()
        capabilities = [_CAPABILITIES[name] for name in wish["capabilities"]]
        ns.become(wish["uid"], wish["gid"], capabilities, new_privileges=wish["new_privileges"])
        ns.die_with_parent()  # a change of user has cleared it
        os.closerange(3, 1024)
        os.execvpe(wish["argv"][0], wish["argv"], wish["environ"])
    except OSError as error:
        os.write(2, f"pod_container: {error}\n".encode())
    finally:
        os._exit(128)


def _build_root(wish: dict[str, Any]) -> None:
    NEW_ROOT.mkdir(exist_ok=True)
    if wish["image"]:
        for layer in ("upper", "work"):
            (NEW_ROOT.parent / layer).mkdir(exist_ok=True)
        layers = f"lowerdir={wish['image']},upperdir=/mnt/upper,workdir=/mnt/work"
        ns.mount("image", NEW_ROOT, "overlay", options=layers)
    else:
        ns.memory_on(NEW_ROOT)
    for place in ("proc", "dev", "sys", "etc", "run", "var"):
        (NEW_ROOT / place).mkdir(exist_ok=True)
    if not wish["image"]:
        (NEW_ROOT / "var/run").symlink_to("/run")
    for target, source in wish["binds"].items():
        source_path = Path(source)
        if source_path.is_symlink() and target == source:
            (NEW_ROOT / target[1:]).symlink_to(source_path.readlink())  # /bin → usr/bin
        else:
            ns.bind(source_path, NEW_ROOT / target[1:], read_only=True)
    for target, text in wish["files"].items():
        path = NEW_ROOT / target[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    if wish["set_gid"]:
        program = NEW_ROOT / "usr/local/bin/pilot-agent"
        os.chown(program, 0, wish["set_gid"])
        program.chmod(0o2755)
    for target, meant in wish["links"].items():
        (NEW_ROOT / target[1:]).symlink_to(meant)
    for target, volume in sorted(wish["volumes"].items()):  # an outer one before what is mounted inside it
        mounted = _inside_root(target)
        mounted.mkdir(parents=True, exist_ok=True)
        ns.mount(VOLUMES / volume["name"], mounted, flags=ns.BIND)
    if wish["read_only"]:
        ns.mount("", NEW_ROOT, flags=ns.BIND | ns.REMOUNT | ns.READ_ONLY)
    for target, volume in wish["volumes"].items():
        if volume["read_only"]:
            ns.mount("", _inside_root(target), flags=ns.BIND | ns.REMOUNT | ns.READ_ONLY)
    _system_mounts(wish)


def _inside_root(target: str) -> Path:
    """Return the place below the new root; /var/run is a link to /run in it."""
    if target.startswith("/var/run/"):
        target = target.removeprefix("/var")
    return NEW_ROOT / target[1:]


def _system_mounts(wish: dict[str, Any]) -> None:
    ns.mount("proc", NEW_ROOT / "proc", "proc", ns.NO_SUID | ns.NO_DEV)
    ns.bind(Path("/sys"), NEW_ROOT / "sys", read_only=True, everything_below=True)
    for place, source in wish["cgroup_views"].items():
        ns.bind(Path(source), NEW_ROOT / place[1:], read_only=True)
    device_root = NEW_ROOT / "dev"
    ns.mount("tmpfs", device_root, "tmpfs", ns.NO_SUID, "mode=0755,size=64k")
    for name in _DEVICES:
        ns.bind(Path("/dev") / name, device_root / name)
    for name, meant in (
        ("fd", "/proc/self/fd"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        (device_root / name).symlink_to(meant)
    (device_root / "shm").mkdir()
    ns.mount(MEMORY, device_root / "shm", flags=ns.BIND)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
