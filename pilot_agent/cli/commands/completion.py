"""`completion SHELL`: the script that makes a shell complete our words."""

from collections.abc import Callable

from pilot_agent.cli.command import PROGRAM, Command, Invocation, no_arguments
from pilot_agent.cli.flags import Flag
from pilot_agent.cli.output import print_out

_LOADED_BY = {
    "bash": f"source <({PROGRAM} completion bash)",
    "fish": f"{PROGRAM} completion fish | source",
    "powershell": f"{PROGRAM} completion powershell | Out-String | Invoke-Expression",
    "zsh": f"source <({PROGRAM} completion zsh)",
}


def _printer(shell: str) -> Callable[[Invocation], int]:
    def run(invocation: Invocation) -> int:
        from pilot_agent.cli.completion_scripts import script  # noqa: PLC0415  # `help` lists this module too

        print_out(script(shell, descriptions=not invocation.values.boolean("no-descriptions")))
        return 0

    return run


def _for_shell(shell: str) -> Command:
    return Command(
        use=shell,
        short=f"Print the completion script for {shell}",
        long=f"Prints the completion script for {shell}. Load it with\n\n    {_LOADED_BY[shell]}",
        run=_printer(shell),
        flags=(Flag("no-descriptions", "bool", False, "Offer bare words, without descriptions"),),
        check_arguments=no_arguments,
        parent=f"{PROGRAM} completion",
    )


COMMAND = Command(
    use="completion",
    short="Print a script that makes the shell complete commands and flags",
    long="Prints a script that makes the shell complete commands and flags.\n"
    "The help of each shell's command tells how to load it.",
    children=tuple(map(_for_shell, _LOADED_BY)),
)
