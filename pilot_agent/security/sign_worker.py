"""Has a CSR signed by istiod's CA. Runs in a short-lived worker process only.

Every call has a connection of its own, so that a rotated root or a just-issued client certificate counts
at once. Source: the reference's Citadel client.
"""

import random
import re
import time
from pathlib import Path
from typing import Final

import tenacity

from pilot_agent.log import get_logger
from pilot_agent.rpc import Code
from pilot_agent.rpc.client import Secured, Target
from pilot_agent.security.ca_call import CallFailed, call
from pilot_agent.security.certificate import (
    CertificateError,
    certificate_facts,
    check_certificates,
    csr_public_key,
)
from pilot_agent.security.errors import CaError, CaRefused, CaUnavailable
from pilot_agent.security.pem import assemble_chain, blocks
from pilot_agent.security.server_name import server_name
from pilot_agent.security.status_code import go_code_of
from pilot_agent.security.tls import Tls
from pilot_agent.security.work import Signed, SignRequest, TokenRequest, decode, encode, failure
from pilot_agent.wire import WireError, bytes_field, fields, message, text_field, varint_field

METHOD: Final = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
ATTEMPTS: Final = 5
ATTEMPT_DEADLINE_S: Final = 10.0
"""Ours: the reference waits for ever, which a worker process must not."""

_HEADER_TEXT: Final = re.compile(r"[!-~]+")
_HEADER_NAME: Final = re.compile(r"[0-9a-z_.-]+")
_HEADER_VALUE: Final = re.compile(r"[ -~]*")
_RETRYABLE: Final = {
    Code.CANCELLED,
    Code.DEADLINE_EXCEEDED,
    Code.RESOURCE_EXHAUSTED,
    Code.ABORTED,
    Code.INTERNAL,
    Code.UNAVAILABLE,
}
_log = get_logger("citadelclient")
_token_log = get_logger()


def sign(request: bytes) -> bytes:
    """Take an encoded SignRequest, return an encoded Signed or a failure."""
    wanted = decode(request, SignRequest)
    retrying = _policy()
    begun = time.monotonic()
    try:
        answer: bytes = retrying(_call, wanted)
        retries = int(retrying.statistics["attempt_number"]) - 1
        return encode(
            checked(
                wanted.csr_pem,
                chain_of(answer),
                workload=wanted.workload,
                call_ms=(time.monotonic() - begun) * 1000,
                retries=retries,
            )
        )
    except CaError as error:
        return failure(error, retries=int(retrying.statistics.get("attempt_number", 1)) - 1)


def encode_request(csr_pem: str, validity_s: int, cert_signer: str) -> bytes:
    """Return an IstioCertificateRequest; its metadata always has CertSigner, be it empty."""
    value = bytes_field(3, cert_signer.encode())  # Value.string_value
    entry = message(text_field(1, "CertSigner"), bytes_field(2, value))
    return message(text_field(1, csr_pem), varint_field(3, validity_s), bytes_field(4, bytes_field(1, entry)))


def chain_of(answer: bytes) -> list[str]:
    """Return the certificates of an IstioCertificateResponse, leaf first, root last.

    Raises:
        CaRefused: the answer is malformed, or has no leaf and root.
    """
    try:
        chain = [answer[part.start : part.end].decode() for part in fields(answer) if part.number == 1]
    except (WireError, UnicodeDecodeError) as error:
        raise CaRefused(f"create certificate: malformed answer of the CA: {error}") from error
    if len(chain) < 2:
        raise CaRefused(f"invalid empty CertChain: got={len(chain)} expected=2 certificates or more")
    return chain


def checked(csr_pem: str, chain: list[str], *, workload: str = "", call_ms: float, retries: int) -> Signed:
    """Return the answer if its leaf belongs to the CSR's key, is for this workload and still valid.

    The trust domain is not compared: a mesh that changes its own signs for the new one before the
    workloads are started anew.

    Raises:
        CaRefused: it is unusable; the text says why.
    """
    try:
        leaf = certificate_facts(chain[0])
        for element in chain[1:]:
            check_certificates(element)
    except CertificateError as error:
        raise CaRefused(f"failed to parse the certificate of the CA: {error}") from error
    if leaf.public_key != csr_public_key(csr_pem):
        raise CaRefused("the CA's certificate does not belong to the key of the CSR")
    if workload and not any(uri.endswith(workload) for uri in leaf.uris):
        raise CaRefused(f"the CA's certificate is for another identity: got={leaf.uris} expected=…{workload}")
    if leaf.not_after_unix_s <= time.time():
        raise CaRefused(f"the CA's certificate has expired already, at {_instant(leaf.not_after_unix_s)}")
    return Signed(
        chain_pem=assemble_chain(chain),
        root_pem=chain[-1],
        not_after_unix_s=leaf.not_after_unix_s,
        lifetime_s=leaf.not_after_unix_s - leaf.not_before_unix_s,
        serial_number=leaf.serial_number,
        call_ms=call_ms,
        retries=retries,
    )


def _instant(unix_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))


def _policy() -> tenacity.Retrying:
    """Five attempts, 100 ms doubled each time ±10 %, for what a retry can help."""
    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        retry=tenacity.retry_if_exception_type(CaUnavailable),
        wait=lambda state: 0.1 * 2.0 ** (state.attempt_number - 1) * random.uniform(0.9, 1.1),  # noqa: S311
        before_sleep=_announce_retry,
        reraise=True,
    )


def _announce_retry(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    _log.warn(f"CSR attempt {state.attempt_number} of {ATTEMPTS} failed, trying again: {error}")


def _call(wanted: SignRequest) -> bytes:
    try:
        return call(
            _target(wanted),
            METHOD,
            encode_request(wanted.csr_pem, wanted.validity_s, wanted.cert_signer),
            headers=_checked(_metadata(wanted)),
            timeout_s=ATTEMPT_DEADLINE_S,
        )
    except CallFailed as error:
        raise translate(error) from error


def translate(error: CallFailed) -> CaUnavailable | CaRefused:
    """Return our error for a failed call; the status code decides if a retry can help."""
    kind = CaUnavailable if error.code in _RETRYABLE else CaRefused
    return kind(f"create certificate: rpc error: code = {go_code_of(error.code)} desc = {error}")


def _target(wanted: SignRequest) -> Target:
    if wanted.plaintext:
        return Target(address=wanted.address)
    name = server_name(wanted.address, wanted.server_name)
    chain_path, key_path = _client_pair(wanted)
    tls = Tls(
        server_name=name or wanted.address,
        roots_pem=_roots(wanted.root_path),
        client_chain_path=chain_path,
        client_key_path=key_path,
        policy=wanted.compliance_policy,
    )
    try:
        secured = Secured(tuple(tls.contexts()), tls.server_name, tls.check)
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", "") or error
        raise CaUnavailable(f"create certificate: TLS for the CA: {why}") from error
    return Target(address=wanted.address, secured=secured, authority=name)


def _roots(path: str) -> str:
    """Return the trust anchors as PEM blocks alone."""
    try:
        text = Path(path).read_text(errors="replace")
        check_certificates(text)
    except (OSError, ValueError) as error:
        raise CaUnavailable(f"create certificate: root CA file {path} is unusable: {error}") from error
    return "\n".join(blocks(text, "CERTIFICATE"))


def _client_pair(wanted: SignRequest) -> tuple[str, str]:
    """Return the paths of the provisioned client certificate and its key, if it is there and not expired."""
    if not wanted.client_cert_path:
        return "", ""
    try:
        chain = Path(wanted.client_cert_path).read_text(errors="replace")
        not_after_s = certificate_facts(chain).not_after_unix_s
    except (OSError, ValueError) as error:
        _log.warn(f"cannot load client certificate, use the token: {error}")
        return "", ""
    if not_after_s <= time.time():
        _log.warn(
            f"client certificate {wanted.client_cert_path} expired at {_instant(not_after_s)}, use the token"
        )
        return "", ""
    return wanted.client_cert_path, wanted.client_key_path


def _checked(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str | bytes], ...]:
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            why = "its name or value has illegal characters"
            raise CaUnavailable(f"create certificate: header {name!r} cannot be sent: {why}")
    return tuple((name, value.encode() if name.endswith("-bin") else value) for name, value in headers)


def _metadata(wanted: SignRequest) -> tuple[tuple[str, str], ...]:
    """Return the call's headers; names are lower-cased, as HTTP/2 asks."""
    headers = tuple((name.lower(), value) for name, value in wanted.headers)
    token = wanted.token or _fetched(wanted) or _token(wanted.token_path)
    return (*headers, ("authorization", f"Bearer {token}")) if token else headers


def _fetched(wanted: SignRequest) -> str:
    if not wanted.token_audience:
        return ""
    from pilot_agent.security.gce_token import token_of  # noqa: PLC0415  # h11, for these instances alone

    return token_of(TokenRequest(wanted.metadata_host, wanted.token_audience, wanted.token_path))


def _token(path: str) -> str:
    """Return the token as it is now; without one the call goes on and the CA decides."""
    if not path:
        return ""
    try:
        token = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        _token_log.warn(f"failed to fetch token from file: {error}")
        return ""
    if not token:
        _token_log.warn(f"token file {path} is empty: asking the CA without a token")
    elif not _HEADER_TEXT.fullmatch(token):
        _token_log.warn(f"token file {path} holds no token but {len(token)} characters of something else")
        return ""
    return token
