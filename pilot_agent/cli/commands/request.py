"""`request METHOD PATH [BODY]`: one call to a local port, for people, hooks and tools.

Tools parse its stdout: on success nothing but the answer's body goes there.
"""

from pilot_agent.cli.command import Command, Invocation, at_least
from pilot_agent.cli.errors import CliError
from pilot_agent.cli.flags import Flag
from pilot_agent.cli.output import print_out

_ALLOWED_PORTS = (15000, 15004, 15020, 15021)
_TIMEOUT_S = 60.0


def _run(invocation: Invocation) -> int:
    from pilot_agent.cli.fetch import fetch  # noqa: PLC0415  # `help` lists this module too

    port = invocation.values.integer("debug-port")
    if port not in _ALLOWED_PORTS:
        allowed = " ".join(map(str, _ALLOWED_PORTS))
        raise CliError(f"debug port {port} is not in allowed list [{allowed}]")
    method, path, body = (*invocation.arguments, "")[:3]
    url = f"http://localhost:{port}/{path.removeprefix('/')}"
    answer = fetch(method, url, body.encode(errors="surrogateescape"), timeout_s=_TIMEOUT_S)
    if answer.status > 399 and answer.status != 404:
        text = answer.body.decode(errors="replace")
        raise CliError(f"received unsuccessful status code {answer.status}: {text}")
    print_out(answer.body + b"\n")
    return 0


COMMAND = Command(
    use="request <method> <path> [<body>]",
    short="Send one HTTP request to a local port of Envoy or the agent",
    long="Sends one HTTP request to Envoy's admin interface, or to another local port of the proxy, and "
    "prints the answer.",
    run=_run,
    flags=(
        Flag(
            "debug-port",
            "int32",
            15000,
            "Local port: 15000, 15004, 15020 or 15021",
            choices=tuple(map(str, _ALLOWED_PORTS)),
        ),
    ),
    check_arguments=at_least(2),
)
