"""`upgrade`: has the agent that runs here become this program, in place and without a lost request."""

import os
import signal
import sys
import time
from pathlib import Path

from pilot_agent.cli.command import Command, Invocation, no_arguments
from pilot_agent.cli.errors import CliError
from pilot_agent.cli.flags import Flag
from pilot_agent.cli.output import print_out

_WISH, _RESULT = "upgrade", "upgrade-result"


def _run(invocation: Invocation) -> int:
    directory = Path(invocation.values.string("configPath"))
    program = Path(invocation.values.string("program") or sys.argv[0]).resolve()
    pid = _running_in(directory)
    try:
        (directory / _RESULT).unlink(missing_ok=True)
        part = directory / f"{_WISH}.part"
        part.write_text(f"{program}\n", encoding="utf-8")
        part.replace(directory / _WISH)
        os.kill(pid, signal.SIGUSR2)
    except OSError as error:
        raise CliError(f"upgrade of process {pid} in {directory}: {error.strerror}") from error
    result = _result(directory, time.monotonic() + invocation.values.integer("timeoutSeconds"))
    if result != "upgraded":
        raise CliError(f"upgrade: {result}")
    print_out(f"process {pid} is now {program}\n")
    return 0


def _running_in(directory: Path) -> int:
    """Return the agent that holds the lock of its directory."""
    try:
        found = directory.stat()
    except OSError as error:
        raise CliError(f"{directory}: {error.strerror}") from error
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
        words = line.split()
        if words[1:4] == ["FLOCK", "ADVISORY", "WRITE"] and words[5] == place and int(words[4]) > 0:
            return int(words[4])
    raise CliError(f"no pilot-agent runs with {directory}")


def _result(directory: Path, deadline_s: float) -> str:
    while time.monotonic() < deadline_s:
        try:
            return (directory / _RESULT).read_text(encoding="utf-8").strip()
        except OSError:
            time.sleep(0.05)
    return "no result yet; the agent's log tells how it goes on"


COMMAND = Command(
    use="upgrade",
    short="Replace the running agent by this program, in place",
    long="Tries this program beside the running agent; if it starts, the agent becomes it, part by part, "
    "while Envoy and its connections go on. If a part does not come up, the agent goes back.",
    run=_run,
    check_arguments=no_arguments,
    flags=(
        Flag("configPath", "string", "./etc/istio/proxy", "Directory of the running agent's files"),
        Flag("program", "string", "", "Another program than this one"),
        Flag("timeoutSeconds", "int", 120, "Seconds to wait for the result"),
    ),
)
