"""Help texts, laid out as the reference lays them out; the words are ours."""

from collections.abc import Sequence

from pilot_agent.cli.command import PROGRAM, Command
from pilot_agent.cli.flags import Flag, as_text
from pilot_agent.cli.global_flags import GLOBAL_FLAGS
from pilot_agent.cli.registry import all_commands
from pilot_agent.gotext import quote


def help_text(command: Command) -> str:
    """Return what `--help` prints: what it is for, then how it is called."""
    return f"{command.long or command.short}\n\n{usage_text(command)}"


def usage_text(command: Command) -> str:
    """Return how the command is called, its commands and its flags."""
    is_root = command.path == PROGRAM
    children = all_commands() if is_root else sorted(command.children.values(), key=lambda child: child.name)
    shown = [child for child in children if not child.hidden]
    parts = [f"Usage:\n  {_use_line(command, has_children=bool(shown))}\n"]
    if shown:
        width = max(11, *(len(child.name) for child in shown))
        lines = (f"  {child.name:<{width}} {child.short}\n" for child in shown)
        parts.append("Available Commands:\n" + "".join(lines))
    if is_root:
        parts.append("Flags:\n" + _flag_lines((*command.own_flags, *GLOBAL_FLAGS)))
    else:
        parts.append("Flags:\n" + _flag_lines(command.own_flags))
        parts.append("Global Flags:\n" + _flag_lines(GLOBAL_FLAGS))
    if shown:
        parts.append(f'Use "{command.path} [command] --help" for more information about a command.\n')
    return "\n".join(parts)


def _use_line(command: Command, *, has_children: bool) -> str:
    if has_children:
        return f"{command.path} [command]"
    return f"{command.path}{command.use.removeprefix(command.name)} [flags]"


def _flag_lines(flags: Sequence[Flag]) -> str:
    heads = {flag.name: _head(flag) for flag in flags}
    width = max(map(len, heads.values()))
    ordered = sorted(flags, key=lambda flag: flag.name)
    return "".join(f"{heads[flag.name]:<{width}}   {flag.usage}{_default_note(flag)}\n" for flag in ordered)


def _head(flag: Flag) -> str:
    short = f"-{flag.shorthand}, " if flag.shorthand else "    "
    return f"  {short}--{flag.name}" + (f" {flag.kind}" if flag.kind != "bool" else "")


def _default_note(flag: Flag) -> str:
    if not flag.default:
        return ""
    text = quote(flag.default) if isinstance(flag.default, str) else as_text(flag.default)
    return f" (default {text})"
