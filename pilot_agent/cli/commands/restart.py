"""`restart`: asks the running agent for a new Envoy epoch; what `POST /restart` on the status port does.

With `--rotate` for a new workload certificate, as `POST /rotate` does.
"""

from pilot_agent.cli.command import Command, Invocation, no_arguments
from pilot_agent.cli.errors import CliError
from pilot_agent.cli.flags import Flag

_TIMEOUT_S = 60.0


def _run(invocation: Invocation) -> int:
    from pilot_agent.cli.fetch import fetch  # noqa: PLC0415  # `help` lists this module too

    port = invocation.values.integer("status-port")
    if not 1 <= port <= 65535:
        raise CliError(f"status port {port} must be in the range 1..65535")
    wish = "rotate" if invocation.values.boolean("rotate") else "restart"
    answer = fetch("POST", f"http://localhost:{port}/{wish}", b"", timeout_s=_TIMEOUT_S)
    if answer.status != 200:
        text = answer.body.decode(errors="replace")
        raise CliError(f"received unsuccessful status code {answer.status}: {text}")
    return 0


COMMAND = Command(
    use="restart",
    short="Ask the running agent for a hot restart of Envoy",
    long="Asks the agent on this machine to replace Envoy by a new epoch that takes its sockets over. The "
    "command returns as soon as the wish is taken; whether it is granted, and why not, stands in the agent's "
    "log and in its metrics hot_restarts, hot_restart_refused and hot_restart_failed.",
    run=_run,
    flags=(
        Flag("rotate", "bool", False, "Ask the CA for a new workload certificate, which a restart follows"),
        Flag("status-port", "int", 15020, "Status port of the running agent"),
    ),
    check_arguments=no_arguments,
)
