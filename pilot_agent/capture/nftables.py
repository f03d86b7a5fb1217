"""Runs `nft`: transactions, and what our tables hold."""

import re
from collections.abc import Iterable
from typing import Final

from pilot_agent.capture.errors import ExecutionError
from pilot_agent.capture.nftables_rules import TABLES, deletion
from pilot_agent.capture.programs import NOT_FOUND, Command, Completed, Programs

_MARK: Final = re.compile(r"mark set (0x[0-9a-f]+)")


def run_transaction(programs: Programs, lines: Iterable[str]) -> None:
    """Have nft carry out `lines` as one transaction.

    Raises:
        ExecutionError: nft is missing or refused; nothing was changed.
    """
    text = "".join(f"{line}\n" for line in lines)
    _check(programs.run(Command(("nft", "-f", "-"), text), whole=True))


def tables_there(programs: Programs) -> list[str]:
    """Return which of our tables exist.

    Raises:
        ExecutionError: nft is missing or cannot tell.
    """
    listed = _check(programs.run(Command(("nft", "list", "tables"))))
    there = {line.split()[-1] for line in listed.splitlines() if line.startswith("table inet ")}
    return [table for table in TABLES if table in there]


def marks_in(programs: Programs, tables: Iterable[str]) -> set[int]:
    """Return the marks that the rules of our tables set.

    Raises:
        ExecutionError: nft is missing or refused.
    """
    listed = [_check(programs.run(Command(("nft", "list", "table", "inet", table)))) for table in tables]
    return {int(mark, 16) for text in listed for mark in _MARK.findall(text)}


def delete_tables(programs: Programs) -> None:
    """Delete our tables; a missing one is no error.

    Raises:
        ExecutionError: nft is missing or refused.
    """
    run_transaction(programs, deletion())


def _check(completed: Completed) -> str:
    if completed.status == NOT_FOUND:
        raise ExecutionError(
            "nativeNftables is enabled, but the nft binary is missing in the sidecar container image: "
            + completed.error
        )
    if completed.status != 0:
        said = completed.error.strip() or f"exit status {completed.status}"
        raise ExecutionError(f"failed to execute nft: {said}")
    return completed.output
