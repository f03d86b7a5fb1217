"""Speaks with an OCI registry: token, manifest, layer."""

import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlencode, urlsplit

import msgspec

from pilot_agent.http import ConnectError, Deadline, Exchange, HttpError, HttpTimeoutError
from pilot_agent.log import get_logger
from pilot_agent.wasm.challenge import Challenge, read_challenges
from pilot_agent.wasm.credentials import ANONYMOUS, Credentials
from pilot_agent.wasm.download import save
from pilot_agent.wasm.errors import ChecksumError, FetchError, ManifestError
from pilot_agent.wasm.guard import BlockedAddressError, UnsafeRealmError, check_realm, check_realms, is_local
from pilot_agent.wasm.image import (
    ACCEPTED,
    Descriptor,
    Manifest,
    for_this_platform,
    module_layer,
    read_manifest,
)
from pilot_agent.wasm.image_name import ImageName
from pilot_agent.wasm.unpack import plugin_of_layer
from pilot_agent.wasm.web import Headers, Web, limited, tls_failure

_MANIFEST_LIMIT_BYTES: Final = 4 << 20
_TOKEN_LIMIT_BYTES: Final = 1 << 20
_ERROR_LIMIT_BYTES: Final = 4096
_LAYER_OVERHEAD_BYTES: Final = 1 << 20  # of tar and gzip around the largest module
_ATTEMPTS: Final = 3
_FIRST_WAIT_S: Final = 1.0
_RETRIED: Final = (408, 429, 500, 502, 503, 504)
_log = get_logger("wasm")


class TokenAnswer(msgspec.Struct, frozen=True):
    """What a token service says."""

    token: str = ""
    access_token: str = ""


class Image(NamedTuple):
    """An image whose manifest is known."""

    manifest: Manifest
    digest: str  # hexadecimal sha256 of the platform's manifest
    digests: frozenset[str]  # that, and the index's it was found in


class Registry:
    """One image's registry, for one fetch. Raises FetchError's kinds, and HttpError from the guard alone."""

    def __init__(
        self,
        web: Web,
        name: ImageName,
        *,
        credentials: Credentials,
        insecure: bool,
        deadline: Deadline,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._web, self._name, self._credentials = web, name, credentials
        self._insecure, self._deadline, self._sleep = insecure, deadline, sleep
        self._scheme = "https"
        self._authorization = ""

    def image(self) -> Image:
        """Return the manifest of the image for this platform, each step checked against its digest.

        Raises:
            ManifestError: it cannot be had.
            ChecksumError: something else came than the digest says.
        """
        try:
            manifest, digest = self._manifest(self._name.reference, self._name.digest)
            if manifest.manifests is None:
                return Image(manifest, digest, frozenset((digest,)))
            chosen = for_this_platform(manifest.manifests)
            inner, inner_digest = self._manifest(chosen.digest, chosen.sha256)
            if inner.layers is None:
                raise ManifestError("the index leads to another index")
            return Image(inner, inner_digest, frozenset((digest, inner_digest)))
        except HttpError as error:
            raise ManifestError(f"could not fetch manifest of {self._shown}: {error}") from error

    def download(self, image: Image, target: Path, *, limit_bytes: int) -> None:
        """Write the module to `target`; a file beside it is used for the layer.

        Raises:
            FetchError: it cannot be had, or is not what the manifest says.
            OSError: the disk.
        """
        layer, is_raw = module_layer(image.manifest)
        try:
            if is_raw:
                self._layer(layer, target, limit_bytes)
                return
            packed = target.with_name(target.name + ".layer")
            self._layer(layer, packed, limit_bytes + _LAYER_OVERHEAD_BYTES)
            with packed.open("rb") as source, target.open("wb") as module:
                plugin_of_layer(source, module, limit_bytes=limit_bytes)
            packed.unlink()
        except HttpError as error:
            raise FetchError(f"could not fetch layer {layer.digest} of {self._shown}: {error}") from error

    @property
    def _shown(self) -> str:
        return f"{self._name.registry}/{self._name.repository}"

    def _manifest(self, reference: str, wanted: str) -> tuple[Manifest, str]:
        with self._ask(f"manifests/{reference}", (("Accept", ACCEPTED),)) as exchange:
            if exchange.status != 200:
                raise ManifestError(f"manifest {reference} of {self._shown}: {_problem(exchange)}")
            body = b"".join(limited(exchange, _MANIFEST_LIMIT_BYTES))
            content_type = exchange.header("content-type") or ""
        digest = sha256(body).hexdigest()
        if wanted and digest != wanted:
            raise ChecksumError(
                f"manifest of {self._shown} has digest {digest}, which does not match: {wanted}"
            )
        return read_manifest(body, content_type), digest

    def _layer(self, layer: Descriptor, path: Path, limit_bytes: int) -> None:
        wanted = layer.sha256
        if not 0 < layer.size <= limit_bytes:
            raise FetchError(f"layer of {layer.size} bytes: expected 1 to {limit_bytes}")
        with self._ask(f"blobs/{layer.digest}") as exchange:
            if exchange.status != 200:
                raise FetchError(f"layer {layer.digest} of {self._shown}: {_problem(exchange)}")
            got, size = save(exchange, path, limit_bytes=layer.size)
        if size != layer.size:
            raise FetchError(f"layer of {size} bytes: the manifest says {layer.size}")
        if got != wanted:
            raise ChecksumError(f"layer has digest {got}, which does not match: {wanted}")

    def _ask(self, path: str, headers: Headers = ()) -> Exchange:
        """Return the answer to a request below the repository; what may pass is tried again."""
        wait_s = _FIRST_WAIT_S
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                exchange = self._authorized(path, headers)
            except (BlockedAddressError, UnsafeRealmError, HttpTimeoutError):
                raise
            except HttpError as error:
                if attempt == _ATTEMPTS:
                    raise
                _log.debug(f"{self._shown}: attempt {attempt}: {error}")
            else:
                if exchange.status not in _RETRIED or attempt == _ATTEMPTS:
                    return exchange
                exchange.close()
            self._sleep(min(wait_s, self._deadline.left_s()))
            wait_s *= 3
        raise AssertionError("the last attempt returns or raises")

    def _authorized(self, path: str, headers: Headers) -> Exchange:
        exchange = self._plain_or_not(path, headers)
        if exchange.status != 401:
            return exchange
        exchange.close()
        asked = [value for name, value in exchange.headers if name == "www-authenticate"]
        check_realms(asked)
        self._authorization = self._authorize(read_challenges(asked))
        return self._plain_or_not(path, headers)

    def _plain_or_not(self, path: str, headers: Headers) -> Exchange:
        """Ask over TLS; without it where the registry speaks none, or is on this machine or network."""
        if self._scheme == "https":
            try:
                return self._send(path, headers)
            except ConnectError as error:
                if isinstance(error, BlockedAddressError) or not self._may_be_plain(error):
                    raise
                _log.info(f"fetching image with plain text from {self._name.registry}")
                self._scheme = "http"
                self._credentials = self._credentials_for(f"http://{self._name.registry}")
        return self._send(path, headers)

    def _may_be_plain(self, error: ConnectError) -> bool:
        failure = tls_failure(error)
        return failure == "plain text" or (failure == "none" and is_local(self._name.registry))

    def _credentials_for(self, url: str) -> Credentials:
        """Return what may be sent there: somebody on the way may have taken TLS away to read a secret."""
        parts = urlsplit(url)
        if parts.scheme == "https" or self._credentials.is_anonymous:
            return self._credentials
        if self._insecure or is_local(parts.netloc):
            return self._credentials
        _log.warn(
            f"credentials are not sent to {parts.netloc} in plain text; "
            "list the registry in WASM_INSECURE_REGISTRIES to allow it"
        )
        return ANONYMOUS

    def _send(self, path: str, headers: Headers) -> Exchange:
        url = f"{self._scheme}://{self._name.registry}/v2/{self._name.repository}/{path}"
        own = (("Authorization", self._authorization),) if self._authorization else ()
        return self._web.open(url, headers=headers + own, insecure=self._insecure, deadline=self._deadline)

    def _authorize(self, challenges: list[Challenge]) -> str:
        """Return the `Authorization` that the registry asks for.

        Raises:
            FetchError, HttpError: it cannot be had.
        """
        if self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}"
        bearer = next((one for one in challenges if one.scheme == "bearer"), None)
        if bearer is not None:
            return f"Bearer {self._token(bearer.parameters)}"
        if any(one.scheme == "basic" for one in challenges) and self._credentials.basic:
            return self._credentials.basic
        schemes = ", ".join(one.scheme for one in challenges) or "none"
        raise ManifestError(f"{self._shown} asks for credentials ({schemes}) that are not there")

    def _token(self, parameters: dict[str, str]) -> str:
        realm = parameters.get("realm", "")
        check_realm(realm)
        query = {"service": parameters["service"]} if parameters.get("service") else {}
        query["scope"] = f"repository:{self._name.repository}:pull"
        credentials = self._credentials_for(realm)
        form, headers = b"", _NO_HEADERS
        if credentials.username == "<token>":
            fields = {"client_id": "pilot-agent", "grant_type": "refresh_token", **query}
            form = urlencode({**fields, "refresh_token": credentials.password}).encode()
            headers = _FORM
        else:
            realm += ("&" if urlsplit(realm).query else "?") + urlencode(query)
            headers = (("Authorization", credentials.basic),) if credentials.basic else ()
        exchange, body = self._web.get(
            realm,
            headers=headers,
            insecure=self._insecure,
            deadline=self._deadline,
            limit_bytes=_TOKEN_LIMIT_BYTES,
            form=form,
        )
        if exchange.status != 200:
            raise ManifestError(f"token for {self._shown}: status {exchange.status}")
        return _token_in(body)


_NO_HEADERS: Final[Headers] = ()
_FORM: Final[Headers] = (("Content-Type", "application/x-www-form-urlencoded"),)


def _token_in(body: bytes) -> str:
    try:
        answer = msgspec.json.decode(body, type=TokenAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"malformed answer of the token service: {error}") from error
    token = answer.token or answer.access_token
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ManifestError("the token service gave no usable token")
    return token


def _problem(exchange: Exchange) -> str:
    """Return status and what the registry says about it, in one bounded line."""
    try:
        said = b"".join(limited(exchange, _ERROR_LIMIT_BYTES)).decode(errors="replace")
    except HttpError:
        said = ""
    words = " ".join(said.split())[:200]
    return f"status {exchange.status}" + (f": {words}" if words.isprintable() and words else "")
