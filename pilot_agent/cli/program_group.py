"""Takes the group of a set-gid program file, which the kernel does for binaries and not for scripts.

On a virtual machine with TPROXY the agent runs as root, and the capture spares its traffic by the group
`istio-proxy` alone: without it every connection of the agent and of Envoy would come back to Envoy. The
package installs both files with mode 2755.
Source: deployment of the reference on virtual machines; there the set-gid bit does it.
"""

import os
import stat

from pilot_agent.cli.errors import CliError


def take_group_of_program(program: str) -> None:
    """Be in the group of the file `program`, if its set-gid bit is set and this process may change groups.

    Envoy and everything else that this process starts inherit it. Without privilege nothing happens: then
    whoever started the agent chose user and group.

    Raises:
        CliError: root that may not change its group: its traffic would be captured.
    """
    try:
        found = os.stat(program)  # noqa: PTH116  # pathlib costs time
    except OSError:
        return  # started by another name, `python -m`
    if not found.st_mode & stat.S_ISGID or found.st_gid == os.getegid() or os.geteuid() != 0:
        return
    try:
        os.setresgid(found.st_gid, found.st_gid, found.st_gid)
    except OSError as error:
        raise CliError(
            f"cannot take the group {found.st_gid} of {program} (its set-gid bit is set): {error.strerror}"
        ) from error
