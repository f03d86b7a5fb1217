"""Whether a gRPC server answers on a Unix socket, without gRPC: nothing of it may exist before the fork."""

import socket
import time
from pathlib import Path
from typing import Final

CREDENTIAL_SOCKET: Final = "var/run/secrets/credential-uds/socket"

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEAD_BYTES: Final = 9
_SETTINGS: Final = b"\x04"
_EMPTY_SETTINGS: Final = b"\x00\x00\x00" + _SETTINGS + b"\x00\x00\x00\x00\x00"


def speaks_http2(path: Path, timeout_s: float = 1.0) -> bool:
    """Return whether somebody answers HTTP/2's preface with SETTINGS, as a gRPC client waits for."""
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(timeout_s)
        try:
            probe.connect(str(path))
            probe.sendall(_PREFACE + _EMPTY_SETTINGS)
            head = b""
            while len(head) < _FRAME_HEAD_BYTES and (left_s := deadline - time.monotonic()) > 0:
                probe.settimeout(left_s)
                if not (piece := probe.recv(_FRAME_HEAD_BYTES - len(head))):
                    return False
                head += piece
        except OSError:
            return False
    return len(head) == _FRAME_HEAD_BYTES and head[3:4] == _SETTINGS
