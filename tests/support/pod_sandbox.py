"""A pod's sandbox: network, IPC, host name and volumes, for as long as stdin is open.

    python -m tests.support.pod_sandbox HOST_NAME VOLUME[=OPTIONS]...

Started by root. Each volume is a tmpfs of its own below /mnt, as an empty directory of Kubernetes is
(0777, root's); /dev/shm is the pod's own. Prints "ready" when all of it is there.
"""

import socket
import sys
from pathlib import Path

from tests.support import namespaces as ns

VOLUMES = Path("/mnt/volumes")
MEMORY = Path("/mnt/shm")


def main(host_name: str, *volumes: str) -> None:
    ns.die_with_parent()
    ns.unshare(ns.NEW_MOUNT | ns.NEW_IPC | ns.NEW_UTS | ns.NEW_NET)
    ns.make_mounts_private()
    socket.sethostname(host_name)
    ns.memory_on(Path("/mnt"))
    for volume in volumes:
        name, _, size = volume.partition("=")
        (VOLUMES / name).mkdir(parents=True)
        ns.memory_on(VOLUMES / name, "0777", size or "64m")
    MEMORY.mkdir()
    ns.memory_on(MEMORY, "1777")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
