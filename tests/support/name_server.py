"""The cluster's name server for a pod: A records of a few names, over UDP; all else does not exist."""

import contextlib
import socket
import struct
import threading
from collections.abc import Mapping

_A, _INTERNET, _TTL_S = 1, 1, 30
_ANSWER, _NO_SUCH_NAME = 0x8580, 3


class NameServer:
    """Answers on a bound socket until it is closed; names count with and without `cluster.local`."""

    def __init__(self, bound: socket.socket, addresses: Mapping[str, str]) -> None:
        self._socket = bound
        self._addresses = {
            name + suffix: address for name, address in addresses.items() for suffix in ("", ".cluster.local")
        }
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # ENOTCONN, and the thread wakes all the same
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                query, peer = self._socket.recvfrom(4096)
            except OSError:
                return
            if not query:
                return  # shut down
            try:
                self._socket.sendto(self._answer(query), peer)
            except (OSError, IndexError, struct.error):
                continue  # malformed, or the pod has gone

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode(errors="replace").lower())
            at += 1 + length
        (kind,) = struct.unpack_from("!H", query, at + 1)
        question = query[12 : at + 5]
        address = self._addresses.get(".".join(labels))
        found = address is not None and kind == _A
        flags = _ANSWER | (0 if address is not None else _NO_SUCH_NAME)
        head = query[:2] + struct.pack("!HHHHH", flags, 1, int(found), 0, 0)
        if not found or address is None:
            return head + question
        record = struct.pack("!HHHIH", 0xC00C, _A, _INTERNET, _TTL_S, 4)
        return head + question + record + socket.inet_aton(address)
