"""Reads the envelope of the four discovery messages; resources stay where they are, as offsets.

One pass over the top-level fields, nothing copied but the short texts. Every length is checked, and
the work is bounded by the number of fields, which has a limit of its own: a field may have two bytes,
and what is noted of it takes a hundred. Measured: 10 MB with 500 resources 0.2 ms, 20,000
resources 8 ms; `pilot_agent.wire.fields`, which yields an object a field, needs four times as long.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from pilot_agent.wire import WireError, fields

Span = tuple[int, int]
"""Start and end of one field's bytes, without tag and length."""

_NONE: Final[list[int]] = []
FIELDS_LIMIT: Final = 1 << 20
"""Of one message: some 110 MB while it is looked at. The largest pushes have some ten thousand resources."""


class Spans:
    """The length-delimited top-level fields of one message, by number; others are skipped."""

    __slots__ = ("_found", "data")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        """Scan `data[start:end]`.

        Raises:
            WireError: the bytes are no protobuf message.
        """
        self.data = data
        self._found = _scan(data, start, len(data) if end is None else end)

    def text(self, number: int) -> str:
        """Return a string field; the last one wins, and a missing one is empty, as in proto3."""
        raw = self.last(number)
        try:
            return raw.decode() if raw else ""
        except UnicodeDecodeError as error:
            raise WireError(f"field {number} is no UTF-8 text: {error}") from None

    def last(self, number: int) -> bytes | None:
        """Return the bytes of the last field of this number, None if there is none."""
        found = self._found.get(number)
        return self.data[found[-2] : found[-1]] if found else None

    def all(self, number: int) -> list[bytes]:
        """Return the bytes of each field of this number, in order."""
        data, found = self.data, self._found.get(number, _NONE)
        return [data[found[at + 1] : found[at + 2]] for at in range(0, len(found), 3)]

    def bounds(self, number: int) -> Iterator[Span]:
        """Yield the bounds of each field of this number, in order."""
        found = self._found.get(number, _NONE)
        for at in range(0, len(found), 3):
            yield found[at + 1], found[at + 2]

    def count(self, number: int) -> int:
        return len(self._found.get(number, _NONE)) // 3

    def encoded(self, number: int) -> bytes:
        """Return the fields of this number with their tags, ready to stand in another message."""
        data, found = self.data, self._found.get(number, _NONE)
        return b"".join(data[found[at] : found[at + 2]] for at in range(0, len(found), 3))

    def without(self, *numbers: int) -> bytes:
        """Return the message without the fields of these numbers; all else, unknown fields too, stays."""
        cuts = sorted(
            (found[at], found[at + 2])
            for found in (self._found.get(number, _NONE) for number in numbers)
            for at in range(0, len(found), 3)
        )
        kept, done = [], 0
        for begin, end in cuts:
            kept.append(self.data[done:begin])
            done = end
        return b"".join((*kept, self.data[done:]))


class SotwRequest(NamedTuple):
    """DiscoveryRequest."""

    type_url: str
    version_info: str
    response_nonce: str
    has_node: bool
    is_nack: bool
    spans: Spans  # 1 version_info, 2 node, 3 resource_names, 4 type_url, 5 response_nonce, 6 error_detail

    def error_text(self) -> str:
        """Return why Envoy rejected a response; empty where it did not."""
        return _status_message(self.spans.last(6))


class SotwResponse(NamedTuple):
    """DiscoveryResponse."""

    type_url: str
    version_info: str
    nonce: str
    resource_count: int
    spans: Spans  # 2 resources (Any)


class DeltaRequest(NamedTuple):
    """DeltaDiscoveryRequest."""

    type_url: str
    response_nonce: str
    has_node: bool
    is_nack: bool
    subscribe: list[bytes]
    unsubscribe: list[bytes]
    spans: Spans  # 1 node, 2 type_url, 5 initial_resource_versions, 6 response_nonce, 7 error_detail

    def error_text(self) -> str:
        """Return why Envoy rejected a response; empty where it did not."""
        return _status_message(self.spans.last(7))

    def initial_resource_versions(self) -> dict[bytes, bytes]:
        """Return name → version of what the client says it holds."""
        data = self.spans.data
        entries = (Spans(data, start, end) for start, end in self.spans.bounds(5))
        return {entry.last(1) or b"": entry.last(2) or b"" for entry in entries}


class DeltaResponse(NamedTuple):
    """DeltaDiscoveryResponse."""

    type_url: str
    nonce: str
    resource_count: int
    removed: list[bytes]
    spans: Spans  # 2 resources (Resource: 1 version, 2 resource, 3 name)

    def versions(self) -> dict[bytes, bytes]:
        """Return name → version of the resources."""
        return _versions(self.spans.data, self.spans.bounds(2))


def read_sotw_request(data: bytes) -> SotwRequest:
    """Raises: WireError."""
    spans = Spans(data)
    return SotwRequest(
        spans.text(4), spans.text(1), spans.text(5), spans.count(2) > 0, spans.count(6) > 0, spans
    )


def read_sotw_response(data: bytes) -> SotwResponse:
    """Raises: WireError."""
    spans = Spans(data)
    return SotwResponse(spans.text(4), spans.text(1), spans.text(5), spans.count(2), spans)


def read_delta_request(data: bytes) -> DeltaRequest:
    """Raises: WireError."""
    spans = Spans(data)
    return DeltaRequest(
        type_url=spans.text(2),
        response_nonce=spans.text(6),
        has_node=spans.count(1) > 0,
        is_nack=spans.count(7) > 0,
        subscribe=spans.all(3),
        unsubscribe=spans.all(4),
        spans=spans,
    )


def read_delta_response(data: bytes) -> DeltaResponse:
    """Raises: WireError."""
    spans = Spans(data)
    return DeltaResponse(spans.text(4), spans.text(5), spans.count(2), spans.all(6), spans)


_VERSION_TAG, _RESOURCE_TAG, _NAME_TAG = 0x0A, 0x12, 0x1A  # fields 1, 2 and 3, length-delimited


def _versions(data: bytes, resources: Iterable[Span]) -> dict[bytes, bytes]:
    """Return name → version of each Resource.

    Version, resource and name alone and in this order, as istiod writes them, are read in place: 20,000 take
    15 ms, by `Spans` 95. Whatever else there may be is left to that.
    """
    found: dict[bytes, bytes] = {}
    for start, end in resources:
        at, version = start, b""
        try:
            if data[at] == _VERSION_TAG and (length := data[at + 1]) < 0x80:
                version = data[at + 2 : at + 2 + length]
                at += 2 + length
            if data[at] == _RESOURCE_TAG:
                length = data[at + 1]
                at += 2
                if length > 0x7F:
                    length, at = _long_length(data, at, length)
                at += length
            if data[at] == _NAME_TAG and (length := data[at + 1]) < 0x80 and at + 2 + length == end:
                found[data[at + 2 : end]] = version
                continue
        except IndexError:
            pass
        whole = Spans(data, start, end)
        found[whole.last(3) or b""] = whole.last(1) or b""
    return found


def _status_message(status: bytes | None) -> str:
    """Return the message of a google.rpc.Status."""
    try:
        return Spans(status or b"").text(2)
    except WireError:
        return "unreadable"


def _scan(data: bytes, at: int, stop: int) -> dict[int, list[int]]:
    """Return field number → flat list of (offset of the tag, start, end) of its occurrences."""
    found: dict[int, list[int]] = {}
    last_tag, flat = -1, _NONE
    if stop > len(data):
        raise WireError(f"message of {stop} bytes: only {len(data)} there")
    try:
        for _ in range(FIELDS_LIMIT):
            if at >= stop:
                return found
            tag_at, tag = at, data[at]
            if tag > 0x7F or tag & 7 != 2 or tag < 8:
                at = _other_field(data, at, stop, found)
                continue
            length = data[at + 1]
            at += 2
            if length > 0x7F:
                length, at = _long_length(data, at, length)
            end = at + length
            if end > stop:
                raise WireError(f"field {tag >> 3} of {length} bytes at offset {at}: only {stop - at} left")
            if tag != last_tag:
                last_tag, flat = tag, found.setdefault(tag >> 3, [])
            flat += (tag_at, at, end)
            at = end
    except IndexError:
        raise WireError(f"field cut off at offset {len(data)}") from None
    if at < stop:
        raise WireError(f"more than {FIELDS_LIMIT} fields")
    return found


def _long_length(data: bytes, at: int, first: int) -> Span:
    length, shift = first & 0x7F, 7
    while True:
        byte = data[at]
        at += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return length, at
        shift += 7
        if shift > 63:
            raise WireError(f"varint of more than ten bytes at offset {at}")


def _other_field(data: bytes, at: int, stop: int, found: dict[int, list[int]]) -> int:
    """Read one field that is not length-delimited, or whose number needs more than one byte."""
    field = next(fields(data, at, stop))
    if field.wire_type == 2:
        found.setdefault(field.number, []).extend((at, field.start, field.end))
    return field.end
