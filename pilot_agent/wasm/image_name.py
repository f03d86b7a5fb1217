"""What a module's URL says: which scheme, and of an image which registry, repository, tag or digest."""

import re
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from pilot_agent.wasm.errors import FetchError

DOCKER_HUB: Final = "index.docker.io"
_REPOSITORY: Final = re.compile(r"[a-z0-9._/-]{2,255}")
_TAG: Final = re.compile(r"[\w][\w.-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-fA-F]{64}")
_REGISTRY: Final = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")


class ImageName(NamedTuple):
    """An image as `docker pull` knows it."""

    registry: str  # host, or host:port
    repository: str
    tag: str  # "latest" where the URL has neither tag nor digest; empty beside a digest
    digest: str  # lower-case hexadecimal sha256 of the manifest, or empty

    @property
    def reference(self) -> str:
        """Return what the manifest is asked for by."""
        return f"sha256:{self.digest}" if self.digest else self.tag

    @property
    def module_name(self) -> str:
        """Return the name under which the cache keeps all versions of it."""
        return f"oci://{self.registry}/{self.repository}"


def scheme_of(url: str) -> str:
    return url.partition("://")[0].lower() if "://" in url else ""


def module_name(url: str) -> str:
    """Return the module's name in the cache: an image without tag and digest, else the whole URL.

    Raises:
        FetchError: the URL names no image.
    """
    return parse_image(url).module_name if scheme_of(url) == "oci" else url


def is_latest(url: str) -> bool:
    """Return whether this is an image whose path ends in `:latest`, which is looked at for every version."""
    return scheme_of(url) == "oci" and url.partition("?")[0].endswith(":latest")


def parse_image(url: str) -> ImageName:
    """Return what an `oci://` URL names; Docker Hub's short forms are written out.

    Raises:
        FetchError: it names no image.
    """
    text = url.partition("://")[2].partition("?")[0]
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise FetchError(f"could not parse {url!r}: {digest!r} is no sha256 digest")
    path, tag = _split_tag(rest)
    registry, repository = _split_registry(path)
    if not _REPOSITORY.fullmatch(repository) or set(repository.split("/")) & {"", ".", ".."}:
        raise FetchError(f"could not parse {url!r}: {repository!r} is no repository")
    if not _REGISTRY.fullmatch(registry):
        raise FetchError(f"could not parse {url!r}: {registry!r} is no registry")
    if tag and not _TAG.fullmatch(tag):
        raise FetchError(f"could not parse {url!r}: {tag!r} is no tag")
    digest = digest.removeprefix("sha256:").lower()
    return ImageName(registry, repository, "" if digest else tag or "latest", digest)


def without_userinfo(url: str) -> str:
    """Return the URL as it may stand in a log line: without user and password."""
    head, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{head}{separator}{authority.rpartition('@')[2]}{slash}{path}"


def authority_of(url: str) -> str:
    """Return host, or host:port, as it stands in the URL; what the insecure list is compared with."""
    if scheme_of(url) == "oci":
        return url.partition("://")[2].partition("/")[0]
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return ""


def _split_tag(text: str) -> tuple[str, str]:
    head, colon, tag = text.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (text, "")


def _split_registry(path: str) -> tuple[str, str]:
    first, slash, rest = path.partition("/")
    if not slash or not (set(first) & {".", ":"} or first == "localhost"):
        first, rest = DOCKER_HUB, path
    if first == "docker.io":
        first = DOCKER_HUB
    if first == DOCKER_HUB and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest
