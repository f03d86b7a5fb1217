"""The supervisor's end of one incarnation's control channel: never blocks, needs no thread."""

import socket
from collections import deque
from collections.abc import Iterator
from typing import Final

from actors.runtime import codec
from actors.runtime.channels import Packet, Packets, Receiver
from actors.runtime.codec import FrameError
from pilot_agent.log import get_logger

_log = get_logger()

_MAX_QUEUED: Final = 4096
"""Packets kept for an actor that does not read; it is about to be killed as hung anyway."""


class ControlEnd:
    """Sends and receives control messages of one actor process."""

    def __init__(self, descriptor: int) -> None:
        """Own `descriptor`."""
        self._receiver = Receiver(descriptor)
        self._socket = self._receiver.socket
        self._queue: deque[Packet] = deque()
        self._sequence = 0

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    def send(self, message: object) -> None:
        """Send, or queue until `flush`; a dead reader swallows it (its death is seen elsewhere)."""
        self._sequence += 1
        head, body = codec.encode(message)
        self._queue.extend(Packets(head, body, 0, self._sequence))
        self.flush()

    def flush(self) -> bool:
        """Send what is queued; return whether something is left (poll for writing then)."""
        while self._queue:
            try:
                self._socket.sendmsg(self._queue[0], (), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                if len(self._queue) > _MAX_QUEUED:
                    self._queue.clear()
                    _log.error("control channel: an actor does not read: its queue was dropped")
                return bool(self._queue)
            except OSError:
                self._queue.clear()
                return False
            self._queue.popleft()
        return False

    def messages(self) -> Iterator[tuple[object, tuple[int, ...]]]:
        """Yield every message that is here, with the descriptors that came along."""
        while True:
            try:
                received = self._receiver.receive(socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except FrameError as error:
                _log.warn(f"control channel: {error}: skipped")
                continue
            except OSError:
                return
            if received is None:
                return
            yield received

    def close(self) -> None:
        """Close the descriptor."""
        self._receiver.close()
