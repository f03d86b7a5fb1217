"""A small OCI registry on loopback: images in every known form, token realm, users; tests make it lie."""

import base64
import gzip
import io
import json
import tarfile
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from pilot_agent.wasm.image import (
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    WASM_LAYER,
)
from tests.support.site import Asked, Page, Site, answer, page


def digest_of(data: bytes) -> str:
    return f"sha256:{sha256(data).hexdigest()}"


def tar_of(**files: bytes) -> bytes:
    """Return a tar; `a__b` stands for `a/b`, `plugin_wasm` for `plugin.wasm`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("__", "/").replace("_wasm", ".wasm"))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def packed(**files: bytes) -> bytes:
    return gzip.compress(tar_of(**files), mtime=0)


@dataclass
class OciRegistry(Site):
    """`realm` makes it ask for a token from there; `users` are asked for by that realm, or by Basic.

    `challenge` is what it says instead, with `realm` in it or not.
    """

    realm: str = ""
    challenge: str = ""
    basic: bool = False
    users: dict[str, str] = field(default_factory=dict)
    tokens_given: list[Asked] = field(default_factory=list)

    def push(self, repository: str, tag: str, form: str, module: bytes, **more: Any) -> str:
        """Keep an image in the form "docker", "compat" or "artifact"; return its manifest's digest."""
        if form == "artifact":
            layers = [self.blob(repository, WASM_LAYER, module), self.blob(repository, "text/plain", b"{}")]
            return self.manifest(repository, tag, OCI_MANIFEST, layers=layers, **more)
        layer_type, media_type = {
            "docker": (DOCKER_LAYER, DOCKER_MANIFEST),
            "compat": (OCI_LAYER, OCI_MANIFEST),
        }[form]
        layers = [self.blob(repository, layer_type, packed(plugin_wasm=module))]
        return self.manifest(repository, tag, media_type, layers=layers, **more)

    def blob(self, repository: str, media_type: str, data: bytes) -> dict[str, Any]:
        self.pages[f"/v2/{repository}/blobs/{digest_of(data)}"] = page(data)
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}

    def manifest(self, repository: str, tag: str, media_type: str, **members: Any) -> str:
        """Keep a manifest under its tag and its digest; return the digest."""
        body = json.dumps({"schemaVersion": 2, "mediaType": media_type, **members}).encode()
        for reference in (tag, digest_of(body)):
            self.pages[f"/v2/{repository}/manifests/{reference}"] = page(
                body, 200, f"Content-Type: {media_type}"
            )
        return digest_of(body)

    def index(self, repository: str, tag: str, **by_architecture: str) -> str:
        """Keep an index of images by architecture (their digests); return its digest."""
        entries = [
            {"digest": digest, "size": 1, "platform": {"os": "linux", "architecture": architecture}}
            for architecture, digest in by_architecture.items()
        ]
        return self.manifest(repository, tag, OCI_INDEX, manifests=entries)

    def page_for(self, asked: Asked) -> Page:
        if asked.path == "/token":
            return self._token
        if asked.path.startswith("/v2/") and not self._is_known(asked):
            return page(b'{"errors":[{"code":"UNAUTHORIZED"}]}', 401, f"WWW-Authenticate: {self._challenge}")
        return super().page_for(asked)

    @property
    def _challenge(self) -> str:
        if self.basic:
            return 'Basic realm="the registry"'
        if self.challenge:
            return self.challenge
        return f'Bearer realm="{self.realm}",service="test service",scope="repository:x:pull"'

    def _is_known(self, asked: Asked) -> bool:
        said = asked.headers.get("authorization", "")
        if self.basic:
            return self._user_in(said)
        return not self.realm or said == "Bearer the-token"

    def _user_in(self, authorization: str) -> bool:
        scheme, _, encoded = authorization.partition(" ")
        if scheme != "Basic":
            return False
        user, _, password = base64.b64decode(encoded).decode().partition(":")
        return user in self.users and self.users[user] == password

    def _token(self, asked: Asked) -> list[bytes]:
        self.tokens_given.append(asked)
        if self.users and not self._user_in(asked.headers.get("authorization", "")):
            return answer(b"who?", 401)
        return answer(b'{"token":"the-token"}')
