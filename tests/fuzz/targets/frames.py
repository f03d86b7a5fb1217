"""Channel frames: packets as a sender cuts them, or nothing like it, read as actors read them."""

import contextlib
import os
import socket
from typing import Final

from actors.messages.cert import GetSecret
from actors.messages.xds import NameTable
from actors.runtime import codec
from actors.runtime.channels import Packets, Receiver
from actors.runtime.codec import FrameError

_PACKET_BYTES: Final = 150_000


def target(data: bytes) -> None:
    """Read `data` as packets, each behind three bytes of length."""
    with contextlib.suppress(FrameError):
        codec.decode(data[:40], data[40:])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    receiver = Receiver(theirs.detach())
    try:
        for packet in _packets(data):
            with contextlib.suppress(BlockingIOError):  # the rest of a long input is left out
                ours.send(packet, socket.MSG_DONTWAIT)
            _read(receiver)
        ours.close()
        _read(receiver)
    finally:
        ours.close()
        receiver.close()


def _packets(data: bytes) -> list[bytes]:
    found = []
    while len(data) > 3:
        size = min(int.from_bytes(data[:3], "big"), _PACKET_BYTES)
        found.append(data[3 : 3 + size] or b"\0")
        data = data[3 + size :]
    return found


def _read(receiver: Receiver) -> None:
    while True:
        try:
            received = receiver.receive(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except FrameError:
            continue
        if received is None:
            return
        for descriptor in received[1]:
            os.close(descriptor)


def seeds() -> list[bytes]:
    made = []
    for message in (GetSecret(resource_name="default"), NameTable(body=bytes(200))):
        head, body = codec.encode(message)
        whole = b""
        for parts in Packets(head, body, 1, 7):
            packet = b"".join(parts)
            whole += len(packet).to_bytes(3, "big") + packet
        made.append(whole)
    return [*made, made[0] + made[1], made[1] + made[0]]
