"""CertActor's part for signing: a key and its CSR from one worker, the CA's answer from another."""

import time
from typing import Final

import msgspec

from actors.messages.cert import RotationReason
from actors.runtime.context import Context, WorkerFinished
from pilot_agent.log import get_logger
from pilot_agent.security.errors import CaUnavailable, CsrError, SecurityError
from pilot_agent.security.options import SecurityOptions
from pilot_agent.security.resource_names import WORKLOAD
from pilot_agent.security.work import KeyMade, Signed, TokenRequest, encode, result, retries_of

KEY_TIMEOUT_S: Final = 60.0
SIGN_TIMEOUT_S: Final = 60.0
TOKEN_TIMEOUT_S: Final = 20.0
TOKEN_LOOK_S: Final = 300.0
"""How often the token of a Google Compute Engine instance is looked at; others are the kubelet's to renew."""

_log = get_logger("cache")


class SigningDone(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate for a fresh key; `reason` is None for the first one."""

    reason: RotationReason | None
    key: KeyMade
    signed: Signed
    latency_s: float  # key, CSR and CA together


class SigningFailed(msgspec.Struct, frozen=True, kw_only=True):
    """There is no new certificate; the text is what Envoy's stream is told."""

    text: str


class _Signing(msgspec.Struct, kw_only=True):
    reason: RotationReason | None
    begun_s: float  # monotonic
    worker_id: int
    key: KeyMade | None = None


class Signer:
    """Has at most one signing in flight. It is lost with the actor, whose successor begins anew."""

    def __init__(self, context: Context, options: SecurityOptions) -> None:
        self._context, self._options = context, options
        self._now: _Signing | None = None
        self._token_at_s: float | None = None

    @property
    def busy(self) -> bool:
        """Return whether a signing is in flight."""
        return self._now is not None

    def look(self, now_s: float) -> None:
        """Have the token looked at, if this agent renews it and it is time."""
        if self._token_at_s is None or not 0 <= now_s - self._token_at_s < TOKEN_LOOK_S:
            self._token_at_s = now_s
            self.refresh_token()

    def refresh_token(self) -> None:
        """Have the token file renewed if it is due; nothing where tokens are the kubelet's."""
        ca = self._options.ca
        if ca is None or not ca.request.token_audience:
            return
        wanted = TokenRequest(ca.request.metadata_host, ca.request.token_audience, ca.request.token_path)
        self._context.run_worker("token", encode(wanted), timeout_s=TOKEN_TIMEOUT_S)

    def begin(self, reason: RotationReason | None) -> None:
        """Have a key made and signed; nothing happens while one is in flight."""
        if self._now is not None:
            return
        _log.debug(f"resource:{WORKLOAD} constructed host name for CSR: {self._options.key.spiffe_id}")
        begun_s = time.monotonic()
        worker_id = self._context.run_worker("key", encode(self._options.key), timeout_s=KEY_TIMEOUT_S)
        self._now = _Signing(reason=reason, begun_s=begun_s, worker_id=worker_id)

    def finished(self, finished: WorkerFinished) -> SigningDone | SigningFailed | None:
        """Return how the signing ended; None if it goes on, or the worker was nobody's."""
        now = self._now
        if now is None or now.worker_id != finished.worker_id:
            return None
        try:
            if now.key is None:
                self._have_signed(now, result(_delivered(finished, CsrError), KeyMade))
                return None
            signed = self._counted(finished)
        except (SecurityError, ValueError) as error:
            self._now = None
            return SigningFailed(text=f"failed to generate workload certificate: {error}")
        self._now = None
        latency_s = time.monotonic() - now.begun_s
        return SigningDone(reason=now.reason, key=now.key, signed=signed, latency_s=latency_s)

    def _have_signed(self, now: _Signing, key: KeyMade) -> None:
        if self._options.ca is None:
            raise CsrError("attempted to fetch secret, but ca client is nil")
        self._context.count("num_outgoing_requests", request_type="csr")
        request = self._options.ca.request._replace(csr_pem=key.csr_pem)
        now.key = key
        now.worker_id = self._context.run_worker("sign", encode(request), timeout_s=SIGN_TIMEOUT_S)

    def _counted(self, finished: WorkerFinished) -> Signed:
        retries = retries_of(finished.result) if finished.result is not None else 0
        if retries:
            self._context.count("num_outgoing_retries", float(retries), request_type="csr")
        try:
            signed = result(_delivered(finished, CaUnavailable), Signed)
        except (SecurityError, ValueError):
            self._context.count("num_failed_outgoing_requests", request_type="csr")
            raise
        self._context.count("outgoing_latency", signed.call_ms, request_type="csr")
        return signed


def _delivered(finished: WorkerFinished, kind: type[SecurityError]) -> bytes:
    """Return the worker's result.

    Raises:
        SecurityError: of this kind; the worker itself came to an end without one.
    """
    if finished.result is None:
        raise kind(f"{finished.kind} worker: {finished.error}")
    return finished.result
