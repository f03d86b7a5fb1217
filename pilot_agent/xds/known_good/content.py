"""One type's accepted resources, as its file's records amount to; and the responses made of them.

Resources are looked at for their names alone: those of a delta response stand beside them, those of a
state-of-the-world response are field 1 of the resource itself (so in every resource of Envoy's).
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from pilot_agent.unreadable import UNREADABLE
from pilot_agent.wire import WireError, bytes_field, message, text_field
from pilot_agent.xds.envelope import Spans, read_delta_response, read_sotw_response
from pilot_agent.xds.known_good import records
from pilot_agent.xds.known_good.records import StoreError
from pilot_agent.xds.requests import Variant
from pilot_agent.xds.type_urls import ENDPOINTS, PREFIX

NAMED_TYPES: Final = frozenset(
    {
        ENDPOINTS,
        PREFIX + "envoy.config.route.v3.RouteConfiguration",
        PREFIX + "envoy.config.core.v3.TypedExtensionConfig",
    }
)
"""In the state-of-the-world variant a response of these may carry a part of what was asked for; of all
other types it carries everything."""

_RESOURCES, _TYPE_URL, _NONCE = 2, 4, 5
VERSION_KEY: Final = b""
"""In a RETAIN of the state-of-the-world variant: the version that the rest must have, else it goes."""


class Resource(msgspec.Struct, frozen=True):
    """One resource: the encoded Any, or in delta the encoded Resource, as istiod sent it."""

    version: bytes
    body: bytes


class Content:
    """The accepted resources of one type, by name."""

    def __init__(self, variant: Variant, type_url: str) -> None:
        self.variant, self.type_url = variant, type_url
        self.version = ""  # of the last response
        self.resources: dict[bytes, Resource] = {}

    def accept(self, response: bytes) -> None:
        """Take a response in.

        Raises:
            WireError: it, or a resource in it, is malformed.
        """
        if self.variant == "delta":
            self._accept_delta(response)
        else:
            self._accept_sotw(response)

    def retain(self, claims: dict[bytes, bytes]) -> None:
        """Keep what `claims` names; see `keeper.Retain`."""
        if self.variant == "sotw" and VERSION_KEY in claims:
            if self.version != claims[VERSION_KEY].decode(errors="replace"):
                self.resources.clear()
            return
        self.resources = {
            name: one
            for name, one in self.resources.items()
            if name in claims and claims[name] in (b"", one.version)
        }

    def response(self, names: Iterable[bytes], nonce: str) -> bytes:
        """Return a response with these resources, as far as they are here."""
        found = (self.resources[name] for name in names if name in self.resources)
        return message(
            text_field(1, self.version),
            *(bytes_field(_RESOURCES, one.body) for one in found),
            text_field(_TYPE_URL, self.type_url),
            text_field(_NONCE, nonce),
        )

    def _accept_delta(self, response: bytes) -> None:
        seen = read_delta_response(response)
        for start, end in seen.spans.bounds(_RESOURCES):
            one = Spans(response, start, end)
            name = one.last(3) or b""
            self.resources[name] = Resource(one.last(1) or b"", response[start:end])
        for name in seen.removed:
            self.resources.pop(name, None)
        self.version = seen.spans.text(1) or self.version

    def _accept_sotw(self, response: bytes) -> None:
        seen = read_sotw_response(response)
        if self.type_url not in NAMED_TYPES:
            self.resources.clear()
        self.version = seen.version_info
        version = seen.version_info.encode()
        for number, (start, end) in enumerate(seen.spans.bounds(_RESOURCES)):
            name = _name_in(response, start, end) or b"#%d" % number
            self.resources[name] = Resource(version, response[start:end])


def read_content(data: records.Buffer) -> tuple[records.Header, Content]:
    """Return what a file holds.

    Raises:
        StoreError: it is damaged, or holds what is no response.
    """
    header, at = records.read_header(data)
    variant: Variant = "delta" if header.variant == "delta" else "sotw"
    content = Content(variant, header.type_url)
    for found in records.walk(data, at):
        body = records.read_body(data, found)
        try:
            if found.kind == records.ACCEPTED:
                content.accept(body)
            elif found.kind == records.RETAIN:
                content.retain(msgspec.msgpack.decode(body, type=dict[bytes, bytes]))
        except (WireError, *UNREADABLE) as error:
            raise StoreError(f"the record at offset {found.start} is no response: {error}") from error
    return header, content


def _name_in(response: bytes, start: int, end: int) -> bytes | None:
    value = Spans(response, start, end).last(2)
    return Spans(value).last(1) if value else None
