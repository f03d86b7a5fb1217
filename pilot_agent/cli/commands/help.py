"""`help [command]`: the help text of another command."""

from pilot_agent.cli.command import PROGRAM, Command, Invocation
from pilot_agent.cli.errors import UsageError
from pilot_agent.cli.output import print_error, print_out


def _run(invocation: Invocation) -> int:
    from pilot_agent.cli.help import help_text, usage_text  # noqa: PLC0415  # it lists all commands, this one too
    from pilot_agent.cli.registry import root_command  # noqa: PLC0415
    from pilot_agent.cli.resolve import resolve  # noqa: PLC0415

    root = root_command()
    try:
        command, _ = resolve(root, invocation.arguments)
    except UsageError:
        topic = " ".join(f"`{word}`" for word in invocation.arguments)
        print_error(f"Unknown help topic [{topic}]\n{usage_text(root)}")
        return 0
    print_out(help_text(command))
    return 0


COMMAND = Command(
    use="help [command]",
    short="Tell more about a command",
    long=f"Prints the help text of a command: {PROGRAM} help [command].",
    run=_run,
)
