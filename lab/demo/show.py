"""The demo's words on the terminal: one line a step, tables, and what went wrong."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field


class StepFailedError(Exception):
    """A step did not hold; the text says what was seen instead."""


@dataclass(slots=True)
class Progress:
    """Numbers the steps and remembers which did not hold."""

    total: int
    done: int = 0
    failed: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """Show one step and, beneath it, what the body put into the list; a failure is noted, not raised."""
        self.done += 1
        say(f"[{self.done:2}/{self.total}] {title} …")
        notes: list[str] = []
        began_s = time.monotonic()
        try:
            yield notes
            verdict = "ok"
        except (StepFailedError, OSError) as error:
            self.failed.append(title)
            notes.append(f"FAILED: {error}")
            verdict = "FAILED"
        for note in notes:
            say(*(f"        {line}" for line in note.splitlines()))
        say(f"        {verdict}, {time.monotonic() - began_s:.2f} s")


def say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows in columns, numbers to the right. A column of numbers has its head to the right too."""
    numeric = [all(str(row[column]).isdigit() for row in rows) for column in range(len(head))]
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    rule = "  ".join("─" * width for width in widths)
    lines = ["  ".join(map(_cell, row, widths, numeric)).rstrip() for row in cells]
    return "\n".join((lines[0], rule, *lines[1:]))


def _cell(text: str, width: int, numeric: bool) -> str:
    return text.rjust(width) if numeric else text.ljust(width)
