"""A dry run: what would be done is logged and, if asked for, written to a file; nothing is started."""

import os
from collections.abc import Callable, Sequence

from pilot_agent.capture.backend import NAMES
from pilot_agent.capture.changes import cleanup_commands
from pilot_agent.capture.errors import ExecutionError
from pilot_agent.capture.options import CaptureOptions
from pilot_agent.capture.rules import Rule, restore_input

Say = Callable[[str], None]


class Record:
    """The file named by DRY_RUN_FILE_PATH: it is made if missing, and added to. No name, no file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def lines(self, lines: Sequence[str]) -> None:
        """Add lines.

        Raises:
            ExecutionError: the file cannot be written.
        """
        if not self._path:
            return
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                os.write(file, "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))
            finally:
                os.close(file)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ExecutionError(f"DRY_RUN_FILE_PATH: open {self._path}: {reason}") from error


def dry_iptables(options: CaptureOptions, rules: Sequence[Rule], record: Record, say: Say) -> None:
    """Show what a run would do on a machine without any rule."""
    families = [family for family in NAMES if family == 4 or options.ipv6]
    record.lines([f"{name}-save" for name in NAMES.values()])
    say("Clean-state detected, new iptables are needed")
    if options.settings.cleanup_only:
        say("Performing cleanup of existing iptables")
        for family in families:
            _show_cleanup([rule for rule in rules if rule.family == family], NAMES[family], record, say)
    else:
        say("Applying iptables chains and rules")
        for family in families:
            text = restore_input(rule for rule in rules if rule.family == family)
            binary = f"{NAMES[family]}-restore"
            say(f"Running iptables restore with: {binary} and the following input:\n{text.rstrip()}")
            record.lines(text.splitlines())
    record.lines([f"{NAMES[family]}-save" for family in families])
    for family in families:
        say(f"Final iptables state (IPv{family}):\n")


def _show_cleanup(rules: Sequence[Rule], name: str, record: Record, say: Say) -> None:
    lines = [" ".join((name, *words)) for words in cleanup_commands(rules)]
    for line in lines:
        say(f"Running command: {line}")
    record.lines(lines)
