"""istio.v1.auth.IstioCertificateService: checks the caller, signs the CSR."""

import threading
from typing import NoReturn

import grpc

from lab.access import Access, headers_of
from lab.authority import Authority, CsrError, CsrIdentityError, Signed, key_type_of
from lab.faults import Faults
from lab.observed import CsrSeen, Observed
from lab.server import Handler
from lab.tokens import Identity, TokenError
from proto_gen.istio.v1.auth import certificate_pb2

SERVICE = "istio.v1.auth.IstioCertificateService"
_MAX_VALIDITY_S = 90 * 86_400
_DEFAULT_VALIDITY_S = 86_400
_Context = grpc.ServicerContext


class CaService:
    """Create one for each server start; `closing` ends the calls that hang."""

    def __init__(
        self,
        *,
        authority: Authority,
        access: Access,
        trust_domain: str,
        faults: Faults,
        observed: Observed,
        closing: threading.Event,
    ) -> None:
        self._authority, self._access, self._trust_domain = authority, access, trust_domain
        self._faults, self._observed, self._closing = faults, observed, closing

    def handler(self) -> Handler:
        method = grpc.unary_unary_rpc_method_handler(
            self._create,
            request_deserializer=certificate_pb2.IstioCertificateRequest.FromString,
            response_serializer=certificate_pb2.IstioCertificateResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"CreateCertificate": method})

    def _create(
        self, request: certificate_pb2.IstioCertificateRequest, context: _Context
    ) -> certificate_pb2.IstioCertificateResponse:
        try:
            identity = self._access.identify(context)
        except TokenError as error:
            self._refuse(request, context, "", grpc.StatusCode.UNAUTHENTICATED, str(error))
        if identity is None:
            text = "the CA signs for nobody on a plaintext port without a token"
            self._refuse(request, context, "", grpc.StatusCode.UNAUTHENTICATED, text)
        spiffe_id = identity.spiffe_id(self._trust_domain)
        self._fail_if_told(request, context, spiffe_id)
        signed = self._sign(request, context, identity)
        chain = signed.chain_pem[:1] if self._faults.ca == "short-chain" else signed.chain_pem
        return certificate_pb2.IstioCertificateResponse(cert_chain=chain)

    def _sign(
        self, request: certificate_pb2.IstioCertificateRequest, context: _Context, identity: Identity
    ) -> Signed:
        spiffe_id = identity.spiffe_id(self._trust_domain)
        asked_s = min(request.validity_duration or _DEFAULT_VALIDITY_S, _MAX_VALIDITY_S)
        validity_s = asked_s if self._faults.certificate_ttl_s is None else self._faults.certificate_ttl_s
        try:
            signed = self._authority.sign(request.csr, spiffe_id=spiffe_id, validity_s=validity_s)
        except CsrIdentityError as error:
            self._refuse(request, context, spiffe_id, grpc.StatusCode.PERMISSION_DENIED, str(error))
        except CsrError as error:
            self._refuse(request, context, spiffe_id, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        self._note(request, context, spiffe_id, "signed", signed.serial_number)
        return signed

    def _fail_if_told(
        self, request: certificate_pb2.IstioCertificateRequest, context: _Context, spiffe_id: str
    ) -> None:
        fault = self._faults.ca
        if fault == "hang":
            left_s = context.time_remaining()
            self._closing.wait(None if left_s is None else left_s + 1.0)  # the caller's deadline comes first
        if fault in ("hang", "unavailable"):
            self._refuse(request, context, spiffe_id, grpc.StatusCode.UNAVAILABLE, "the CA is down")
        if fault == "refuse":
            text = "the CA signs nothing now"
            self._refuse(request, context, spiffe_id, grpc.StatusCode.PERMISSION_DENIED, text)

    def _refuse(
        self,
        request: certificate_pb2.IstioCertificateRequest,
        context: _Context,
        spiffe_id: str,
        code: grpc.StatusCode,
        text: str,
    ) -> NoReturn:
        self._note(request, context, spiffe_id, code.name, "")
        context.abort(code, text)
        raise AssertionError("abort raises")

    def _note(
        self,
        request: certificate_pb2.IstioCertificateRequest,
        context: _Context,
        spiffe_id: str,
        outcome: str,
        serial_number: str,
    ) -> None:
        seen = CsrSeen(
            outcome=outcome,
            spiffe_id=spiffe_id,
            validity_s=request.validity_duration,
            serial_number=serial_number,
            key_type=key_type_of(request.csr),
            cert_signer=str(dict(request.metadata).get("CertSigner", "")),
            headers=headers_of(context),
        )

        def change(observed: Observed) -> None:
            observed.csrs.append(seen)
            observed.counts["csr", outcome] += 1

        self._observed.note(change)
