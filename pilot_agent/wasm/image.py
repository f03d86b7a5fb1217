"""What a registry says about an image, read with suspicion: manifests, and which layer the module is in.

Source: the reference's image fetch: Docker images, "compat" OCI images, OCI artifacts.
"""

import re
from typing import Final

import msgspec

from pilot_agent.wasm.errors import InvalidModuleError, ManifestError

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
ACCEPTED: Final = f"{DOCKER_MANIFEST}, {OCI_MANIFEST}, {DOCKER_LIST}, {OCI_INDEX}"

DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
WASM_LAYER: Final = "application/vnd.module.wasm.content.layer.v1+wasm"
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """Which machine an image of an index is for."""

    os: str = ""
    architecture: str = ""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A reference to a blob or a manifest."""

    media_type: str = ""
    digest: str = ""
    size: int = 0
    platform: Platform | None = None

    @property
    def sha256(self) -> str:
        """Return the digest's hexadecimal digits.

        Raises:
            ManifestError: it is none of sha256.
        """
        match = _DIGEST.fullmatch(self.digest)
        if match is None:
            raise ManifestError(f"digest {self.digest[:100]!r} in the manifest is no sha256")
        return match[1]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An image's manifest, or an index of several."""

    schema_version: int = 0
    media_type: str = ""
    layers: list[Descriptor] | None = None
    manifests: list[Descriptor] | None = None


def read_manifest(body: bytes, content_type: str) -> Manifest:
    """Return the manifest; its media type is what it says itself, else what the registry says.

    Raises:
        ManifestError: it is none that can be used.
    """
    try:
        manifest = msgspec.json.decode(body, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"malformed manifest: {error}") from error
    if manifest.schema_version != 2:
        raise ManifestError(f"manifest of schema version {manifest.schema_version}: expected 2")
    media_type = manifest.media_type or content_type.partition(";")[0].strip()
    if manifest.layers is None and manifest.manifests is None:
        raise ManifestError(f"manifest of type {media_type!r} has neither layers nor manifests")
    return msgspec.structs.replace(manifest, media_type=media_type)


def for_this_platform(manifests: list[Descriptor]) -> Descriptor:
    """Return the image for linux/amd64, which is what the reference takes on every machine.

    Raises:
        ManifestError: the index has none.
    """
    for one in manifests:
        platform = one.platform or Platform(os="linux", architecture="amd64")
        if (platform.os, platform.architecture) == ("linux", "amd64"):
            return one
    raise ManifestError("no image for linux/amd64 in the index")


def module_layer(manifest: Manifest) -> tuple[Descriptor, bool]:
    """Return the layer that the module is in, and whether the layer is the module itself.

    Raises:
        InvalidModuleError: the image is none of the three known forms.
    """
    layers = manifest.layers or []
    if not layers:
        raise InvalidModuleError("the image has no layers")
    last = layers[-1]
    if manifest.media_type == DOCKER_MANIFEST:
        if last.media_type != DOCKER_LAYER:
            raise InvalidModuleError(f"invalid media type {last.media_type!r} (expect {DOCKER_LAYER})")
        return last, False
    if last.media_type == OCI_LAYER:
        return last, False
    if len(layers) != 2:
        raise InvalidModuleError(
            "the image is in no known form: "
            f"the last layer is of type {last.media_type!r} (expect {OCI_LAYER}), "
            f"and it has {len(layers)} layers (expect 2 of an artifact)"
        )
    for layer in layers:
        if layer.media_type == WASM_LAYER:
            return layer, True
    found = ", ".join(repr(layer.media_type) for layer in layers)
    raise InvalidModuleError(f"invalid media types {found} (expect {OCI_LAYER} or {WASM_LAYER})")
