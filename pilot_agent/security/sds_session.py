"""One SDS stream at work: requests and changes in, responses out, in order.

The stream's thread runs `responses`; requests and changes of material come into the same inbox, so that
either wakes it.
"""

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol

import msgspec

from pilot_agent.environment import go_duration
from pilot_agent.log import get_logger
from pilot_agent.rpc import Code
from pilot_agent.security.errors import SecurityError
from pilot_agent.security.material import Material
from pilot_agent.security.resource_names import ROOTS, WORKLOAD, ResourceNameError
from pilot_agent.security.sds_delta import (
    DeltaRequest,
    decode_delta_request,
    encode_delta_response,
    react_delta,
)
from pilot_agent.security.sds_stream import (
    NEW_STREAM,
    Ack,
    MissingNode,
    Nack,
    Reaction,
    Respond,
    Stale,
    Subscription,
    Unsubscribe,
    react,
    sent,
)
from pilot_agent.security.sds_wire import DiscoveryRequest, decode_request, encode_response
from pilot_agent.security.secret_store import SecretStore
from pilot_agent.security.status_code import go_code_of
from pilot_agent.unreadable import UNREADABLE
from pilot_agent.wire import WireError

_log = get_logger("ads")
_cache_log = get_logger("cache")


class Count(Protocol):
    """Adds to a counter."""

    def __call__(self, name: str, value: float = 1.0, **labels: str) -> None: ...


class StreamFailedError(Exception):
    """The stream ends with this status."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """What all streams of a server share."""

    store: SecretStore
    encode: Callable[[str, Material], bytes]  # resource name and material → Secret
    material_name: Callable[[str], str]
    count: Count


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """How one kind of stream is read, understood and written."""

    decode: Callable[[bytes], Any]  # Any: its own kind of request, which `react` understands
    react: Callable[[Subscription, Any], tuple[Subscription, Reaction]]
    encode: Callable[[str, str, "Served"], bytes]  # version_info, nonce, secrets


Served = list[tuple[str, str, bytes]]
"""Resource name, version, encoded Secret."""


def _encode_sotw(version_info: str, nonce: str, secrets: Served) -> bytes:
    return encode_response(
        version_info=version_info, nonce=nonce, secrets=(secret for _, _, secret in secrets)
    )


def _encode_delta(version_info: str, nonce: str, secrets: Served) -> bytes:
    return encode_delta_response(version_info=version_info, nonce=nonce, secrets=secrets)


SOTW: Final = Variant(decode=decode_request, react=react, encode=_encode_sotw)
DELTA: Final = Variant(decode=decode_delta_request, react=react_delta, encode=_encode_delta)


class _Changed(msgspec.Struct, frozen=True, kw_only=True):
    """New material of this name is in the store."""

    material: str


class _Inbox:
    """Events in order. The first stays until all that follows from it is done."""

    def __init__(self) -> None:
        self._come = threading.Condition()
        self._events: deque[bytes | _Changed | None] = deque()

    def put(self, event: bytes | _Changed | None) -> None:
        with self._come:
            self._events.append(event)
            self._come.notify()

    def first(self) -> bytes | _Changed | None:
        with self._come:
            while not self._events:
                self._come.wait()
            return self._events[0]

    def done(self) -> None:
        with self._come:
            self._events.popleft()

    def all(self) -> list[bytes | _Changed | None]:
        with self._come:
            return list(self._events)


class KeptSession(msgspec.Struct, frozen=True):
    """A stream as another process takes it up: behind the last event of which all is done."""

    subscription: Subscription = NEW_STREAM
    served: dict[str, str] = {}
    asked: tuple[bytes, ...] = ()  # requests of which nothing is done


class Session:
    """The state of one stream; `number` names it in the log."""

    def __init__(
        self, number: int, serving: Serving, variant: Variant = SOTW, kept: bytes | None = None
    ) -> None:
        """`kept`: go on where another process was.

        Raises:
            ValueError: it cannot be read.
        """
        self.number, self._serving, self._variant = number, serving, variant
        self._inbox = _Inbox()
        self._settled = _read(kept) if kept is not None else KeptSession()
        self._subscription = self._settled.subscription
        self._served = dict(self._settled.served)  # resource name → version_info
        self._ended = threading.Event()
        for request in self._settled.asked:
            self._inbox.put(request)

    def keep(self) -> bytes | None:
        """Return from what another process can go on; None where the stream is about to end.

        To be called when nobody asks any more, and no response is under way.
        """
        waiting = self._inbox.all()
        if None in waiting or self._ended.is_set():
            return None
        asked = tuple(event for event in waiting if isinstance(event, bytes))
        return msgspec.msgpack.encode(msgspec.structs.replace(self._settled, asked=asked))

    def asked(self, request: bytes) -> None:
        """Take a request; does not block."""
        self._inbox.put(request)

    def no_more(self) -> None:
        """Let the stream end behind what was asked."""
        self._inbox.put(None)

    def changed(self, material: str) -> None:
        """Tell the stream that new material is there; does not block."""
        self._inbox.put(_Changed(material=material))

    def end(self) -> None:
        """Let the stream end, even while it waits for material."""
        self._ended.set()
        self._inbox.put(None)
        self._serving.store.wake()

    def responses(self, turn: AbstractContextManager[None] | None = None) -> Iterator[bytes]:
        """Yield what Envoy is to be sent, until its stream ends; within `turn` until it is sent.

        Raises:
            StreamFailedError: the stream is to end with a status.
            WaitEndedError: Envoy is gone.
        """
        while (event := self._inbox.first()) is not None:
            names = self._names_changed(event) if isinstance(event, _Changed) else self._names_asked(event)
            response = self._response(names) if names else b""
            with turn or nullcontext():
                if response:
                    yield response
                self._settled = KeptSession(self._subscription, dict(self._served))
                self._inbox.done()

    def fetch(self, data: bytes) -> bytes:
        """Return the answer to one request without a stream (FetchSecrets).

        Raises:
            StreamFailedError, WaitEndedError: as `responses`.
        """
        names = self._names_asked(data)
        if not names:
            raise StreamFailedError(Code.INVALID_ARGUMENT, "no resource names")
        return self._response(names)

    def _names_changed(self, event: _Changed) -> tuple[str, ...]:
        current = self._serving.store.current(event.material)
        return tuple(
            name
            for name in self._subscription.resource_names
            if self._material_name(name) == event.material
            and current is not None
            and self._served.get(name) != current.version_info
        )

    def _request(self, data: bytes) -> DiscoveryRequest | DeltaRequest:
        try:
            found: DiscoveryRequest | DeltaRequest = self._variant.decode(data)
        except WireError as error:
            raise StreamFailedError(Code.INTERNAL, f"grpc: error unmarshalling request: {error}") from error
        return found

    def _names_asked(self, data: bytes) -> tuple[str, ...]:
        request = self._request(data)
        was_identified = self._subscription.identified
        self._subscription, reaction = self._variant.react(self._subscription, request)
        if self._subscription.identified and not was_identified:
            _log.info(f"ADS: new connection for node:{self.number}")
        match reaction:
            case Respond(resource_names=names, initial=initial, known=known):
                self._forget(names)
                self._served |= known
                verb = "INIT/RECONNECT" if initial else "RESOURCE CHANGE"
                self._debug(verb, request)
                return names
            case MissingNode():
                raise StreamFailedError(Code.INVALID_ARGUMENT, "missing node information")
            case Ack():
                self._serving.count("sds_acks")
                self._debug("ACK", request)
            case Nack(code=code, message=message):
                self._serving.count("pilot_total_xds_rejects", type="sds")
                _log.warn(f"ADS:SDS: ACK ERROR {self.number} {go_code_of(code)}:{message}")
            case Stale(got=got, expected=expected):
                self._serving.count("pilot_xds_expired_nonce", type="sds")
                _log.debug(f"ADS:SDS: REQ {self.number} Expired nonce received {got}, sent {expected}")
            case Unsubscribe(resource_names=gone):
                self._forget(gone or tuple(self._served))
                self._debug("UNSUBSCRIBE", request)
            case _:
                pass
        return ()

    def _forget(self, names: tuple[str, ...]) -> None:
        for name in names:
            self._served.pop(name, None)

    def _debug(self, verb: str, request: DiscoveryRequest | DeltaRequest) -> None:
        if _log.enabled("debug"):
            version_info = request.version_info if isinstance(request, DiscoveryRequest) else ""
            _log.debug(f"ADS:SDS: {verb} {self.number} {version_info} {request.response_nonce}")

    def _response(self, names: tuple[str, ...]) -> bytes:
        """Return what is new of these names to the client; empty if nothing is (delta alone)."""
        materials = ((name, self._material(name)) for name in names)
        found = [(name, made) for name, made in materials if self._served.get(name) != made.version_info]
        if not found:
            return b""
        nonce = str(uuid.uuid4())
        self._subscription = sent(self._subscription, nonce)
        self._served |= {name: material.version_info for name, material in found}
        return self._variant.encode(
            max((material.version_info for _, material in found), key=_version_number),
            nonce,
            [(name, material.version_info, self._serving.encode(name, material)) for name, material in found],
        )

    def _material(self, name: str) -> Material:
        material_name = self._material_name(name)
        at_hand = self._serving.store.current(material_name)
        if at_hand is not None:
            self._log_hit(at_hand)
            return at_hand
        try:
            return self._serving.store.wait_for(material_name, self._ended.is_set)
        except SecurityError as error:
            raise _failed(name, str(error)) from error

    def _material_name(self, name: str) -> str:
        try:
            return self._serving.material_name(name)
        except ResourceNameError as error:
            raise _failed(name, str(error)) from error

    def _log_hit(self, material: Material) -> None:
        if material.name not in (WORKLOAD, ROOTS):
            return
        workload = material if material.name == WORKLOAD else self._serving.store.current(WORKLOAD)
        what = "certificate" if material.name == WORKLOAD else "trust anchor"
        ttl_s = workload.not_after_unix_s - time.time() if workload else 0.0
        _cache_log.info(f"returned workload {what} from cache", ttl=go_duration(ttl_s))


def _read(kept: bytes) -> KeptSession:
    try:
        return msgspec.msgpack.decode(kept, type=KeptSession)
    except UNREADABLE as error:
        raise ValueError(f"SDS stream of the version before: {error}") from error


def _failed(name: str, cause: str) -> StreamFailedError:
    return StreamFailedError(Code.UNKNOWN, f"failed to generate secret for {name}: {cause}")


def _version_number(version_info: str) -> int:
    """Return the counter behind the last slash; -1 where there is none."""
    number = version_info.rpartition("/")[2]
    return int(number) if number.isdecimal() else -1
