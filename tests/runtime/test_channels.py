"""Frames and packets: whole messages or none, whatever arrives."""

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages.cert import GetSecret, SecretReady
from actors.messages.xds import NameTable
from actors.runtime import codec
from actors.runtime.channels import Packets, Receiver, Sender, seqpacket_pair
from actors.runtime.codec import CHUNK_BYTES, FrameError

SECRET = GetSecret(resource_name="default")


@pytest.fixture
def channel() -> Iterator[tuple[Sender, Receiver]]:
    write_end, read_end = seqpacket_pair()
    sender, receiver = Sender(write_end, incarnation=1), Receiver(read_end)
    yield sender, receiver
    sender.close()
    receiver.close()


def response(size: int) -> NameTable:
    return NameTable(body=os.urandom(size))


def test_every_message_type_round_trips_by_its_own_name() -> None:
    assert codec.decode(*codec.encode(SECRET)) == SECRET
    assert codec.decode(*codec.encode(response(10))).body != b""  # type: ignore[attr-defined]
    assert len(codec.MESSAGE_TYPES) > 30


@given(st.text(), st.binary(), st.floats(allow_nan=False))
def test_fields_arrive_as_they_were(name: str, pem: bytes, when: float) -> None:
    name = name.encode("utf-8", "ignore").decode()
    ready = SecretReady(resource_name=name, version_info="1", private_key_pem=pem, not_after_unix_s=when)
    assert codec.decode(*codec.encode(ready)) == ready


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "message type got=''"),
        (b"\x05Wrong", "message type got='Wrong'"),
        (b"\x09GetSecret\xc1", "message GetSecret:"),
        (b"\x09GetSecret\x81\xadresource_name\x07", "Expected `str`, got `int`"),
        (b"\x09GetSecret\x80", "missing required field `resource_name`"),
        (b"\xff", "message type got=''"),
    ],
)
def test_a_message_that_does_not_fit_is_named(head: bytes, words: str) -> None:
    with pytest.raises(FrameError, match=words):
        codec.decode(head, b"")


@given(st.binary(max_size=200))
def test_random_heads_raise_nothing_but_frame_errors(head: bytes) -> None:
    with contextlib.suppress(FrameError):
        codec.decode(head, b"")


@given(st.integers(0, 3 * CHUNK_BYTES), st.integers(1, 2 * CHUNK_BYTES))
def test_packets_join_to_what_was_cut(body_bytes: int, head_bytes: int) -> None:
    head, body = b"h" * head_bytes, b"b" * body_bytes
    joined = b"".join(bytes(part) for packet in Packets(head, body, 1, 1) for part in packet[1:])
    assert joined == head + body


def test_a_full_channel_queues_and_keeps_the_order(channel: tuple[Sender, Receiver]) -> None:
    sender, receiver = channel
    names = [str(number) for number in range(3000)]
    for name in names:
        sender.send(GetSecret(resource_name=name))  # returns at once, though nobody reads
    assert sender.queued() > 0
    got = [receiver.receive() for _ in names]
    assert [entry and entry[0] for entry in got] == [GetSecret(resource_name=name) for name in names]


def test_what_is_no_packet_of_ours_is_skipped() -> None:
    write_end, read_end = seqpacket_pair()
    receiver = Receiver(read_end)
    with socket.socket(fileno=write_end) as raw:
        raw.send(b"short")
        raw.send(struct.pack("!BBHIIQ", 9, 0, 1, 1, 1, 1) + b"ab")
        raw.send(struct.pack("!BBHIIQ", 1, 1, 1, 1, 1, 10) + b"rest of something")
        raw.send(struct.pack("!BBHIIQ", 1, 0, 1, 2, 5, 0) + b"much more than was announced")
        raw.send(struct.pack("!BBHIIQ", 1, 0, 1, 3, 100, 1000) + b"begun, and never finished")
        head, body = codec.encode(response(500))
        for packet in Packets(head, body, 2, 1):
            raw.sendmsg(packet)
        received = receiver.receive()
    receiver.close()
    assert received is not None
    assert isinstance(received[0], NameTable)
    assert received[0].body == body


def test_a_message_of_many_packets_is_received_while_it_is_sent(channel: tuple[Sender, Receiver]) -> None:
    sender, receiver = channel
    large = response(5_000_000)
    threading.Thread(target=sender.send, args=(large,)).start()
    received = receiver.receive()
    assert received is not None
    assert received[0] == large


def test_descriptors_travel_with_a_message_and_are_the_receivers_then(
    channel: tuple[Sender, Receiver],
) -> None:
    sender, receiver = channel
    passed, kept = os.pipe()
    sender.send(SECRET, (passed,))
    received = receiver.receive()
    assert received is not None
    message, (arrived,) = received
    assert message == SECRET
    os.close(arrived)  # the only read end now: the sender's copy is closed already
    with pytest.raises(BrokenPipeError):
        os.write(kept, b"x")
    os.close(kept)


def test_an_end_that_was_closed_with_unread_messages_is_the_end_of_the_channel() -> None:
    one, other = seqpacket_pair()
    sender, receiver = Sender(one, incarnation=1), Receiver(other)
    back = Sender(os.dup(other), incarnation=1)
    back.send(SECRET)  # nobody reads it before the other end closes
    sender.close()
    assert receiver.receive() is None
    back.close()
    receiver.close()
