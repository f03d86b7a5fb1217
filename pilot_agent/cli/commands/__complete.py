"""`__complete WORD... PREFIX`: what may stand for PREFIX, for the scripts that `completion` prints."""

from pilot_agent.cli.command import Command, Invocation
from pilot_agent.cli.output import print_out


def _run(invocation: Invocation) -> int:
    from pilot_agent.cli.candidates import candidates  # noqa: PLC0415  # it lists all commands, this one too

    print_out("".join(f"{word}\t{description}\n" for word, description in candidates(invocation.arguments)))
    return 0


COMMAND = Command(
    use="__complete [word]...",
    short="Print what may stand for the last word, one candidate and its description a line",
    run=_run,
    hidden=True,
    takes_raw_words=True,
)
