"""`/debug/pprof/`: what can be said there of a process that is no Go program.

Kept are the rules (loopback alone, gone with `--profiling=false`), the index and `cmdline`; in place of
Go's profiles there are the stacks of this process' threads.
"""

import sys
import threading
import traceback
from collections.abc import Callable
from typing import Final

from pilot_agent.status.messages import TEXT, Answer, Request, text

_PREFIX: Final = "/debug/pprof/"
_INDEX: Final = (
    f"{_PREFIX}\n\n"
    "cmdline    the agent's command line, its words parted by NUL\n"
    "goroutine  the stacks of all threads of the process that serves this port\n\n"
    "Go's profiles (heap, profile, trace, symbol) do not exist here. SIGUSR1 to an actor's process writes\n"
    "the stacks of its threads to the log.\n"
)


def pprof(command_line: Callable[[], bytes]) -> Callable[[Request], Answer]:
    """Return the handler of all paths below `/debug/pprof/`."""

    def answer(request: Request) -> Answer:
        match request.path.removeprefix(_PREFIX):
            case "":
                return Answer(content_type=TEXT, body=_INDEX.encode())
            case "cmdline":
                return Answer(content_type=TEXT, body=command_line().rstrip(b"\0"))
            case "goroutine":
                return Answer(content_type=TEXT, body=_stacks().encode())
            case _:
                return text(404, "Unknown profile")

    return answer


def _stacks() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "".join(
        f"thread {names.get(ident, ident)}\n{''.join(traceback.format_stack(frame))}\n"
        for ident, frame in sys._current_frames().items()  # noqa: SLF001  # the only way to them
    )
