"""The base of the six: a pykka actor that lives in a process of its own."""

from abc import abstractmethod

import pykka

from actors.runtime.context import Context


class RuntimeActor(pykka.ThreadingActor):
    """Takes messages one by one from its mailbox; an error that escapes ends the whole process.

    A subclass starts its work in `on_start` (pykka's hook), calls `context.ready()` when it serves,
    and answers in `on_message` with one `case` per message. The runtime answers heartbeats before
    `on_message` is asked, so a stuck `on_message` is seen as a stuck actor.
    """

    use_daemon_thread = True

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context

    def on_receive(self, message: object) -> object:
        return self.on_message(message)

    @abstractmethod
    def on_message(self, message: object) -> object:
        """Answer one message of the mailbox."""

    def forget(self) -> None:
        """Remove what was kept for the container's next start; called before `quit` when there is none."""

    def quit(self, deadline_s: float) -> None:
        """End in order within `deadline_s`. Nothing to do unless a subclass says so."""
