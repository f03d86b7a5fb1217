"""`bug-report`: one archive of what somebody needs who is to find out what is wrong; without secrets."""

from pilot_agent.cli.command import Command, Invocation, no_arguments
from pilot_agent.cli.flags import Flag


def _run(invocation: Invocation) -> int:
    from pilot_agent.cli.bug_report import write_report  # noqa: PLC0415  # `help` lists this module too

    values = invocation.values
    write_report(
        values.string("output"),
        status_port=values.integer("status-port"),
        admin_port=values.integer("admin-port"),
    )
    return 0


COMMAND = Command(
    use="bug-report",
    short="Put status, recent log, configuration and versions into one archive, without secrets",
    long="Asks the running agent and its Envoy, on loopback, and writes what they say into one .tar.gz, "
    "with keys, tokens and credentials taken out. What cannot be had is named in its manifest.json.\n\n"
    "From a pod: kubectl exec POD -c istio-proxy -- pilot-agent bug-report --output - > report.tar.gz",
    run=_run,
    check_arguments=no_arguments,
    flags=(
        Flag(
            "output",
            "string",
            "",
            "File to write, - for stdout; named by the time unless given",
            "o",
        ),
        Flag("status-port", "int", 15020, "The agent's status port"),
        Flag("admin-port", "int", 15000, "Envoy's admin port"),
    ),
)
