"""The upstream end of one ADS stream of Envoy's: leg after leg to istiod, for as long as Envoy's lasts.

A leg is one connection with one stream on it. When it ends, whatever the reason, the next is opened
with exponential back-off and full jitter, and the downstream end is asked to begin it: it knows what
Envoy has subscribed to. One response is in flight to Envoy; the next is read from istiod only when
Envoy's transport has taken it, so that HTTP/2 flow control holds istiod back.
"""

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from tenacity import RetryError, Retrying, retry_if_exception_type, wait_random_exponential
from tenacity.stop import stop_when_event_set

from pilot_agent.gotext import quote
from pilot_agent.log import get_logger
from pilot_agent.rpc import Code
from pilot_agent.rpc.client import ClientCall
from pilot_agent.wire import WireError
from pilot_agent.xds import debug_lines, memory, requests, type_urls
from pilot_agent.xds.dialer import Dialer, DialError
from pilot_agent.xds.envelope import (
    DeltaRequest,
    DeltaResponse,
    SotwRequest,
    SotwResponse,
    read_delta_request,
    read_delta_response,
    read_sotw_request,
    read_sotw_response,
)
from pilot_agent.xds.internal_types import handed_over
from pilot_agent.xds.known_good.stream import KnownGood
from pilot_agent.xds.leg import ASK, REPORT, DownstreamPort, Health, Leg
from pilot_agent.xds.outcome import Outcome
from pilot_agent.xds.states import States

BACKOFF_BASE_S: Final = 0.5
BACKOFF_CAP_S: Final = 30.0
"""Envoy's own figures for its ADS stream. A leg that istiod answered, or that lived so long, ends a row."""
_ASK_AGAIN_S: Final = 5.0
_log = get_logger("xdsproxy")


class LegLostError(Exception):
    """A leg ended soon, and istiod had not answered on it: the next one waits longer."""


class IstiodStream:
    """`open`, `report_health` and `close` never block; `run` is the stream's thread."""

    def __init__(
        self,
        *,
        variant: requests.Variant,
        name: str,
        address: str,
        dialer: Dialer,
        port: DownstreamPort,
        health: Health,
        consumes: tuple[str, ...] = (),
        known_good: KnownGood | None = None,
    ) -> None:
        """`consumes` are the internal type URLs that the agent takes for itself, in order of asking."""
        self.variant, self.name = variant, name
        self._kind = "delta " if variant == "delta" else ""
        self._address, self._dialer, self._port, self._health = address, dialer, port, health
        self._consumes, self._known_good = consumes, known_good
        self._read_request: Callable[[bytes], SotwRequest | DeltaRequest] = read_delta_request
        self._read_response: Callable[[bytes], SotwResponse | DeltaResponse] = read_delta_response
        if variant == "sotw":
            self._read_request, self._read_response = read_sotw_request, read_sotw_response
        self.states = States()
        self._may_resume = False  # istiod answered on a leg of this stream
        self._closed = threading.Event()
        self._opened: queue.SimpleQueue[Leg | None] = queue.SimpleQueue()
        self._current: Leg | None = None
        self._asked: set[str] = set()  # types that Envoy has asked for
        self._extensions_version = ""  # the last one that Envoy said it holds of ECDS

    def open(self, leg: int, descriptors: tuple[int, ...]) -> None:
        """Begin this leg, whose sockets the descriptors are; one that is under way is over."""
        # This process's first leg is a later one where its predecessor died.
        self._may_resume = self._may_resume or (self._current is None and leg > 1)
        previous, self._current = self._current, Leg(leg, descriptors)
        self._opened.put(self._current)
        if previous is not None:
            previous.end()

    def report_health(self) -> None:
        if self._current is not None:
            self._current.pipes.insert(REPORT)

    def consume(self, type_url: str) -> None:
        """Take one more internal type, on this leg and on those that follow."""
        self._consumes = (*self._consumes, type_url)
        if self._current is not None:
            self._current.pipes.insert(ASK)

    def deliver(self, leg: int, make: Callable[[], bytes | None]) -> None:
        """Send Envoy what `make` returns (None: nothing) when it is its turn; does not wait for that."""
        current = self._current
        if current is not None and current.number == leg:
            args = current, lambda: self._converted(make())
            threading.Thread(target=self._send, args=args, name=f"late-{self.name}", daemon=True).start()

    def reject_extensions(self, leg: int, nonce: str, error: str) -> None:
        """Tell istiod that the agent could not take an ECDS response of this leg."""
        current = self._current
        if current is not None and current.number == leg:
            version = self._extensions_version
            nack = requests.answer(
                self.variant, type_urls.ECDS, version_info=version, nonce=nonce, error=error
            )
            current.pipes.insert(nack)

    def close(self) -> None:
        """End the stream for good: Envoy's has ended."""
        self._closed.set()
        self._opened.put(None)
        if self._current is not None:
            self._current.end()

    def run(self) -> None:
        """Serve leg after leg until `close`."""
        while not self._closed.is_set():
            row_of_attempts = Retrying(
                retry=retry_if_exception_type(LegLostError),
                wait=wait_random_exponential(multiplier=BACKOFF_BASE_S, max=BACKOFF_CAP_S),
                stop=stop_when_event_set(self._closed),
                sleep=self._pause,
            )
            try:
                row_of_attempts(self._next_leg)
            except RetryError:
                return
            self._pause(random.uniform(0, BACKOFF_BASE_S))  # noqa: S311  # spreads the load only

    def _pause(self, seconds: float) -> None:
        """Wait between two attempts; where istiod was never heard, the store answers Envoy meanwhile."""
        if self._known_good is None or not self._known_good.can_answer:
            self._closed.wait(seconds)
            return
        grace_s = self._known_good.refusal_grace_left_s
        if grace_s > 0:
            self._closed.wait(min(seconds, grace_s))
            return
        leg = self._wait_for_leg()
        if leg is not None:
            self.states.begin_leg(leg.number)
            self._known_good.serve(leg.pipes, at_least_s=seconds, states=self.states)
            leg.end()

    def _next_leg(self) -> None:
        """Serve one leg to its end.

        Raises:
            LegLostError: it ended soon and without an answer.
        """
        leg = self._wait_for_leg()
        if leg is None:
            return
        began_s = time.monotonic()
        outcome = self._serve(leg)
        leg.end()
        if leg is not self._current:
            return
        self._report(outcome)
        if leg.was_served or self._closed.is_set() or time.monotonic() - began_s >= BACKOFF_CAP_S:
            return  # Envoy counts anew from the first answer, too (GrpcStream::onReceiveMessage)
        if self._may_resume and outcome.refuses_to_resume:
            _log.warn(f"the XDS server refuses to resume, Envoy starts afresh: {outcome}", id=self.name)
            self._port.refused(outcome.code.value, outcome.details)
        raise LegLostError(str(outcome))

    def _wait_for_leg(self) -> Leg | None:
        """Return the newest leg that was opened, asking for one if there is none; None when closed."""
        current = self._current
        while not self._closed.is_set():
            try:
                leg = self._opened.get(block=False)
            except queue.Empty:
                self._port.replay(current.number if current else 0)
                try:
                    leg = self._opened.get(timeout=_ASK_AGAIN_S)
                except queue.Empty:
                    continue
            if leg is not None and not leg.over.is_set():
                return leg
        return None

    def _serve(self, leg: Leg) -> Outcome:
        self.states.begin_leg(leg.number)
        if self._known_good is None:
            return self._attempt(leg)
        self._known_good.begin_leg()
        patience_s = self._known_good.patience_s(leg.number)
        impatience = threading.Timer(patience_s, self._give_up, (leg,))
        impatience.daemon = True
        impatience.start()
        try:
            outcome = self._attempt(leg)
        finally:
            impatience.cancel()
        if leg.is_given_up:
            return Outcome(Code.DEADLINE_EXCEEDED, f"no answer within {patience_s:.1f}s")
        return outcome

    def _give_up(self, leg: Leg) -> None:
        """End an attempt that istiod does not answer, if there is somebody else to answer."""
        if not leg.was_served and self._known_good is not None and self._known_good.can_answer:
            leg.is_given_up = True
            leg.end()

    def _attempt(self, leg: Leg) -> Outcome:
        try:
            leg.call = call = self._dialer.call(self.variant)
        except DialError as error:
            return self._dial_failed(error)
        try:
            if leg.over.is_set():
                call.cancel()
            return self._read(leg, call)
        finally:
            leg.end()
            call.close()
            _log.debug(f"disconnected from {self._kind}XDS server: {self._address}", id=self.name)

    def _read(self, leg: Leg, call: ClientCall) -> Outcome:
        """Pass istiod's responses on until the stream ends; "connected" is said at the first of them."""
        sender = threading.Thread(
            target=call.send_all, args=(self._outgoing(leg),), name=f"requests-{self.name}", daemon=True
        )
        sender.start()
        malformed: Outcome | None = None
        for body in call.responses():
            if not leg.was_served:
                _log.info(f"connected to {self._kind}upstream XDS server: {self._address}", id=self.name)
                self._note_answer(leg)
            try:
                self._dispatch(leg, call, body)
            except WireError as error:
                malformed = malformed or self._malformed(leg, error)
            is_big = len(body) >= memory.BIG_BYTES
            del body  # else it would be held until the next response
            if is_big:  # the next small one may be read ahead
                with leg.turn:
                    leg.pipes.wait_until_taken(call)
                memory.trim_soon()
        return malformed or Outcome(call.code, call.details)

    def _note_answer(self, leg: Leg) -> None:
        leg.was_served = self._may_resume = True
        if self._known_good is not None:
            self._known_good.answered()

    def _malformed(self, leg: Leg, error: WireError) -> Outcome:
        _log.error(f"malformed response from the XDS server {self._address}: {error}", id=self.name)
        leg.end()
        return Outcome(Code.INTERNAL, f"failed to unmarshal the received message: {error}")

    def _dispatch(self, leg: Leg, call: ClientCall, body: bytes) -> None:
        """Send one response where it belongs.

        Raises:
            WireError: it is malformed.
        """
        self._port.count("xds_proxy_responses")
        seen = self._read_response(body)
        if _log.enabled("debug"):
            debug_lines.response(self.name, seen)
        goes_to = type_urls.destination(
            seen.type_url,
            name_table=type_urls.NAME_TABLE in self._consumes,
            trust_bundle=type_urls.PROXY_CONFIG in self._consumes,
        )
        if goes_to == "nobody":
            _log.error(f"unknown type url {quote(seen.type_url, mark='')}: response dropped", id=self.name)
            return
        if goes_to == "envoy" and seen.type_url != type_urls.ECDS:
            self._pass_on(leg, call, seen)
            return
        self._note_response(seen, is_ours=goes_to != "envoy")
        if goes_to == "envoy":
            self._send(leg, lambda: self._converted(self._port.extension_configs(leg.number, seen)), call)
        elif seen.resource_count:
            leg.pipes.insert(self._consume(seen))

    def _pass_on(self, leg: Leg, call: ClientCall, seen: SotwResponse | DeltaResponse) -> None:
        """Send Envoy a response as it came; it is noted behind that, and before Envoy's answer to it is."""
        with leg.turn:
            leg.pipes.wait_until_taken(call)
            with leg.noting:
                leg.pipes.send(seen.spans.data)
                if self._known_good is not None:
                    self._known_good.response(seen)
                self._note_response(seen, is_ours=False)

    def _note_response(self, seen: SotwResponse | DeltaResponse, *, is_ours: bool) -> None:
        if is_ours or seen.type_url in self._asked:  # else names of types would add up
            self._port.seen_response(seen)
            self.states.response(seen, "istiod")

    def _converted(self, body: bytes | None) -> bytes | None:
        """Note what Envoy gets instead of what istiod sent."""
        if body is not None and self._known_good is not None:
            self._known_good.response(self._read_response(body))
        return body

    def _send(self, leg: Leg, make: Callable[[], bytes | None], reading: ClientCall | None = None) -> None:
        """Send Envoy what `make` returns when its turn has come; None is nothing.

        `reading` is the call whose reader this is: it is served while Envoy takes its time.
        """
        with leg.turn:
            body = make()
            if body is not None:
                leg.pipes.send(body, reading)

    def _consume(self, seen: SotwResponse | DeltaResponse) -> bytes:
        """Hand an internal type to its consumer; return the ACK or NACK for istiod."""
        problem = handed_over(seen, self._port)
        if problem is not None:
            _log.warn(f"{type_urls.short_name(seen.type_url)} rejected: {problem}", id=self.name)
        version_info = seen.version_info if isinstance(seen, SotwResponse) else ""
        return requests.answer(
            self.variant, seen.type_url, version_info=version_info, nonce=seen.nonce, error=problem
        )

    def _outgoing(self, leg: Leg) -> Iterator[bytes]:
        """Yield what istiod gets: Envoy's requests, and behind the first one for listeners our own.

        The health state is read after it is known that reports may pass: the other order would lose a
        change between the two; this one can at worst tell the same state twice.
        """
        may_report = False
        asked: set[str] = set()
        while (item := leg.pipes.receive()) is not None:
            is_first = False
            if isinstance(item, bytes):
                try:
                    seen = self._read_request(item)
                except WireError as error:  # Envoy's subscriptions have outgrown what is read
                    _log.error(f"request not sent, the upstream stream ends: {error}", id=self.name)
                    break
                if not seen.response_nonce:  # else the type is known, and there is no hurry
                    self._note_request(seen)
                yield self._sent(item)
                if seen.response_nonce:
                    with leg.noting:
                        self._note_request(seen)
                is_first = seen.type_url == type_urls.LISTENER and not may_report
                del seen  # else thousands of names would be held until the next request
                may_report = may_report or is_first
            if not may_report:
                continue
            for type_url in [each for each in self._consumes if each not in asked]:
                asked.add(type_url)
                yield self._sent(requests.subscription(self.variant, type_url))
            report = self._health.request(self.variant) if is_first or item is REPORT else None
            if report is not None:
                yield self._sent(report)
        leg.end()

    def _sent(self, body: bytes) -> bytes:
        self._port.count("xds_proxy_requests")
        if _log.enabled("debug"):
            debug_lines.request(self.variant, self.name, body)
        return body

    def _note_request(self, seen: SotwRequest | DeltaRequest) -> None:
        """Note what is asked for, or answered."""
        self._asked.add(seen.type_url)
        self._port.seen_request(seen)
        self.states.request(seen)
        if self._known_good is not None:
            self._known_good.request(seen)
        if isinstance(seen, SotwRequest) and seen.type_url == type_urls.ECDS and seen.version_info:
            self._extensions_version = seen.version_info

    def _dial_failed(self, error: DialError) -> Outcome:
        self._port.count("istiod_connection_failures")
        _log.error(f"failed to connect to upstream {self._address}: {error}", id=self.name)
        return Outcome(Code.UNAVAILABLE, str(error))

    def _report(self, outcome: Outcome) -> None:
        self._port.count("istiod_connection_terminations", type=outcome.counter_type)
        if outcome.kind == "unexpected":
            _log.warn(f"upstream terminated with unexpected error {outcome}", id=self.name)
        else:
            _log.debug(f"upstream terminated with status {outcome}", id=self.name)
