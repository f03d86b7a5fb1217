"""What a client sends, frame by frame."""

import time
from typing import Final

from pilot_agent.rpc import frames, headers
from pilot_agent.rpc.frames import ConnectionFaultError, Head
from pilot_agent.rpc.inlet import Inlet

_GREETING_PATIENCE_S: Final = 20


class FrameSource:
    """Reads frames; stopped in the middle of one, or of a header block, it has not used any of it."""

    def __init__(self, inlet: Inlet) -> None:
        """Read what comes through this inlet."""
        self.heard_s = time.monotonic()  # when the client was last heard of
        self._inlet = inlet

    @property
    def unread(self) -> bytes:
        """Return what has come of a frame that was not taken."""
        return self._inlet.unread

    def read_preface(self) -> None:
        """Take what a client of HTTP/2 begins with.

        Raises:
            ConnectionFaultError: it is something else.
        """
        self._inlet.be_patient(_GREETING_PATIENCE_S)  # who connects and says nothing takes a place
        if self._inlet.exactly(len(frames.PREFACE)) != frames.PREFACE:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, "the client does not speak HTTP/2")
        self._inlet.be_patient(None)

    def next(self) -> tuple[Head, bytes]:
        """Return the next frame, waiting for it; all before it is used.

        Raises:
            ConnectionFaultError: it is larger than we allow.
        """
        self._inlet.mark()
        return self._frame()

    def whole_block(self, head: Head, payload: bytes) -> bytes:
        """Return the header block that this frame begins.

        Raises:
            ConnectionFaultError: something else comes before its end, or it is too large.
        """
        block = frames.content(head.flags, payload)
        flags, size_bytes = head.flags, len(block)
        while not flags & frames.END_HEADERS:
            more, fragment = self._frame()
            if more.kind != frames.CONTINUATION or more.stream != head.stream:
                raise ConnectionFaultError(frames.PROTOCOL_ERROR, "a header block is interrupted")
            block += fragment
            flags, size_bytes = more.flags, size_bytes + frames.HEAD_BYTES + len(fragment)
            if size_bytes > headers.LARGEST_HEADERS_BYTES:  # which empty fragments reach too
                raise ConnectionFaultError(frames.ENHANCE_YOUR_CALM, f"headers of {size_bytes} bytes")
        return block

    def _frame(self) -> tuple[Head, bytes]:
        head = frames.read_head(self._inlet.exactly(frames.HEAD_BYTES))
        self.heard_s = time.monotonic()
        if head.length_bytes > frames.DEFAULT_FRAME_BYTES:
            raise ConnectionFaultError(frames.FRAME_SIZE_ERROR, f"frame of {head.length_bytes} bytes")
        return head, self._inlet.exactly(head.length_bytes)
