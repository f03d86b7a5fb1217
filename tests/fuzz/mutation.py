"""Hostile variations of good inputs, for a search without a guide and as the begin of one with it."""

import random
from collections.abc import Iterator, Sequence
from typing import Final

_NASTY: Final = (
    b"\xff" * 10,
    b"\x80" * 9 + b"\x01",
    b"\x00",
    b"\x12\xff\xff\xff\xff\x0f",
    b"\x0b",
    b"\x07",
    b"\r\n",
    b'"',
    b"\\",
    b"{",
    b"-1",
    b"9" * 30,
    b"\xc0\x0c",
    b"\xed\xa0\x80",
)


def mutations(found: Sequence[bytes], chance: random.Random) -> Iterator[bytes]:
    """Yield variations of the seeds, for ever."""
    while True:
        yield mutated(chance.choice(found), found, chance)


def mutated(seed: bytes, found: Sequence[bytes], chance: random.Random) -> bytes:
    """Return one input cut, repeated, swapped and overwritten in up to six places."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.randint(0, 40))
        match chance.randrange(6):
            case 0:
                del data[at:]
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = data[at:end]
            case 3:
                data[at:at] = chance.choice(_NASTY)
            case 4:
                data[at:end] = chance.randbytes(end - at)
            case _:
                data[at:at] = chance.choice(found)[:200]
    return bytes(data)
