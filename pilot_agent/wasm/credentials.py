"""Who a registry is to believe we are: a pull secret, or Docker's own configuration file.

Source: the reference's registry library (the keychain's rules), without credential helpers.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from pilot_agent.log import get_logger
from pilot_agent.wasm.errors import FetchError
from pilot_agent.wasm.image_name import DOCKER_HUB

_HUB_KEY: Final = "https://index.docker.io/v1/"
_FILE_LIMIT_BYTES: Final = 1 << 20
_log = get_logger("wasm")


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """What a registry's token service is told; all empty is anonymous."""

    username: str = ""
    password: str = ""
    registry_token: str = ""  # sent to the registry as it is

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, …)"

    @property
    def is_anonymous(self) -> bool:
        return not (self.username or self.password or self.registry_token)

    @property
    def basic(self) -> str:
        """Return the value of a Basic `Authorization` header, empty without a user's name."""
        if not self.username and not self.password:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


ANONYMOUS: Final = Credentials()


def from_secret(secret: str, registry: str) -> Credentials:
    """Return what a `.dockerconfigjson` says about the registry; anonymous if it says nothing.

    Raises:
        FetchError: it is no Docker configuration. The text quotes nothing of it.
    """
    try:
        document = json.loads(secret)
    except (ValueError, RecursionError):
        raise FetchError("the image pulling secret is no JSON") from None
    if not isinstance(document, dict):
        raise FetchError(f"the image pulling secret is {_kind(document)} and no object")
    auths = {} if document.get("auths") is None else document["auths"]
    if not isinstance(auths, dict):
        raise FetchError(f'"auths" of the image pulling secret is {_kind(auths)} and no object')
    return _entry(auths, registry)


def from_docker_config(path: str, registry: str) -> Credentials:
    """Return what the file says about the registry; anonymous without such a file or entry."""
    if not path:
        return ANONYMOUS
    try:
        with Path(path).open("rb") as file:
            return from_secret(file.read(_FILE_LIMIT_BYTES).decode(), registry)
    except (FileNotFoundError, NotADirectoryError):
        return ANONYMOUS
    except (OSError, UnicodeDecodeError, FetchError) as error:
        _log.warn(f"{path} is not used for credentials: {error}")
        return ANONYMOUS


def _entry(auths: Mapping[str, Any], registry: str) -> Credentials:  # Any: JSON
    wanted = _HUB_KEY if registry == DOCKER_HUB else registry
    spellings = (wanted, f"https://{registry}", f"http://{registry}", f"https://{registry}/", registry)
    found = next((auths[key] for key in spellings if isinstance(auths.get(key), dict)), None)
    if found is None:
        return ANONYMOUS
    text = {key: value for key, value in found.items() if isinstance(value, str)}
    username, password = text.get("username", ""), text.get("password", "")
    if text.get("auth"):
        username, password = _decoded(text["auth"])
    if text.get("identitytoken"):
        username, password = "<token>", text["identitytoken"]
    return Credentials(username=username, password=password, registry_token=text.get("registrytoken", ""))


def _decoded(auth: str) -> tuple[str, str]:
    """Raises: FetchError: it is not base64 of `user:password`."""
    try:
        user, colon, password = base64.b64decode(auth, validate=True).decode().rstrip("\0").partition(":")
    except ValueError:
        colon = ""
    if not colon:
        raise FetchError('"auth" of the image pulling secret is not base64 of user:password') from None
    return user, password


def _kind(value: object) -> str:
    return "null" if value is None else f"a JSON {type(value).__name__}"
