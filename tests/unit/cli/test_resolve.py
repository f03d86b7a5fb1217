"""Which command the words mean; the table was checked against cobra itself."""

import pytest

from pilot_agent.cli.errors import UsageError
from pilot_agent.cli.registry import all_commands, command_names, root_command
from pilot_agent.cli.resolve import resolve


@pytest.mark.parametrize(
    ("words", "path", "rest"),
    [
        ([], "pilot-agent", []),
        ([""], "pilot-agent", [""]),
        (["-h", "version", "proxy"], "pilot-agent proxy", ["-h", "version"]),
        (["--help", "version"], "pilot-agent", ["--help", "version"]),
        (["--version"], "pilot-agent", ["--version"]),
        (["--foo", "version"], "pilot-agent", ["--foo", "version"]),
        (["--", "version"], "pilot-agent", ["--", "version"]),
        (["version", "-s"], "pilot-agent version", ["-s"]),
        (["--log_as_json", "version"], "pilot-agent version", ["--log_as_json"]),
        (["--log_target", "x", "version"], "pilot-agent version", ["--log_target", "x"]),
        (["--log_target=x", "version", "b"], "pilot-agent version", ["--log_target=x", "b"]),
        (["--vklog", "version", "version"], "pilot-agent version", ["--vklog", "version"]),
        (["proxy", "proxy"], "pilot-agent proxy", ["proxy"]),
        (["proxy", "--x", "router"], "pilot-agent proxy", ["--x", "router"]),
        (["completion", "bash", "-h"], "pilot-agent completion bash", ["-h"]),
        (["completion", "tcsh"], "pilot-agent completion", ["tcsh"]),
        (["request", "help", "a"], "pilot-agent request", ["help", "a"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_command_is_found_between_the_flags(words: list[str], path: str, rest: list[str]) -> None:
    command, left = resolve(root_command(), words)
    assert (command.path, left) == (path, rest)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-h", "a", "x"], 'unknown command "x" for "pilot-agent"'),
        (["x"], 'unknown command "x" for "pilot-agent"'),
        (["--x", "proxy", "router"], 'unknown command "router" for "pilot-agent"'),
        (["istio-ambient"], 'unknown command "istio-ambient" for "pilot-agent"'),
        (['a"b'], 'unknown command "a\\"b" for "pilot-agent"'),
        (["prox"], 'unknown command "prox" for "pilot-agent"\n\nDid you mean this?\n\tproxy\n'),
        (["Wiat"], 'unknown command "Wiat" for "pilot-agent"\n\nDid you mean this?\n\twait\n'),
        (["req"], 'unknown command "req" for "pilot-agent"\n\nDid you mean this?\n\trequest\n'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_unknown_word_is_told_with_what_may_be_meant(words: list[str], text: str) -> None:
    with pytest.raises(UsageError) as raised:
        resolve(root_command(), words)
    assert str(raised.value) == text


def test_every_file_of_commands_is_a_command_of_its_name() -> None:
    assert [command.name for command in all_commands()] == command_names()
    assert {"proxy", "request", "wait", "version", "completion", "help", "collateral"} <= set(command_names())
