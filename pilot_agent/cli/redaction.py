"""Takes secrets out of what is handed on: JSON by its keys, any text by the look of the secret. Pure.

Rather one value too many than one too few: who reads a report misses a word less than its owner a key.
"""

import base64
import binascii
import json
import re
from typing import Any, Final

MARK: Final = "[redacted]"

_NAME: Final = (
    r"authorization|proxy-authorization|cookie|set-cookie|password|passwd|passphrase|secret|private[-_]?key|"
    r"api[-_]?key|access[-_]?key|credential|token|bearer|session[-_]?id|x-amz-security-token"
)
_SENSITIVE: Final = re.compile(_NAME, re.IGNORECASE)
_HARMLESS: Final = re.compile(
    r"(_?(path|paths|file|filename|name|names|type|url|uri|ttl|config|configs|provider|policy|audience|"
    r"audiences|count|total|duration|version|dir|directory)s?|^(secret|dynamic_active_secrets|static_secrets|"
    r"dynamic_warming_secrets|.*secret_configs?)|.*(_match|_matcher|_bucket|_buckets))$",
    re.IGNORECASE,
)
"""Names that speak of secrets without being one: `token_path`, `sds_secret_config`."""

_PEM: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_JWT: Final = re.compile(r"\beyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{4,}(\.[A-Za-z0-9_-]*)?")
_BASE64_PEM: Final = re.compile(r"LS0tLS1CRUdJTi[A-Za-z0-9+/=\\n]{40,}")
_SCHEME: Final = re.compile(r"\b(Bearer|Basic|Digest|Negotiate)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_URL_PASSWORD: Final = re.compile(r"(://[^/\s:@\"]+:)[^/\s@\"]+@")
_QUERY: Final = re.compile(rf"([?&;][^=&\s\"]*({_NAME}|sig|signature)[^=&\s\"]*=)[^&\s\"]+", re.IGNORECASE)
_ASSIGNED: Final = re.compile(
    rf"(?P<name>[\w.-]*({_NAME})[\w-]*)(?P<gap>\"?\s*[:=]\s*\"?)(?P<value>[^\s\",;&}}\]]+)", re.IGNORECASE
)


def redacted(data: bytes) -> bytes:
    """Return what may be handed on of a document or a text."""
    text = data.decode(errors="replace")
    try:
        document = json.loads(text)
    except ValueError:
        return "".join(map(redacted_text, _pieces(text))).encode()
    if not isinstance(document, dict | list):
        return redacted_text(text).encode()
    return json.dumps(_walked(document), indent=1, ensure_ascii=False).encode() + b"\n"


def redacted_text(text: str) -> str:
    """Return text without what looks like a secret."""
    text = _PEM.sub(MARK, text)
    text = _BASE64_PEM.sub(_without_key, text)
    text = _JWT.sub(MARK, text)
    text = _SCHEME.sub(rf"\1 {MARK}", text)
    text = _URL_PASSWORD.sub(rf"\1{MARK}@", text)
    text = _QUERY.sub(rf"\1{MARK}", text)
    return _ASSIGNED.sub(_without_value, text)


def _walked(value: Any, name: str = "") -> Any:  # Any: JSON
    match value:
        case dict():
            header = value.get("key")
            if isinstance(header, str) and "value" in value and _is_sensitive(header):
                return {
                    key: MARK if key.endswith("value") else _walked(member, key)
                    for key, member in value.items()
                }
            return {key: _walked(member, str(key)) for key, member in value.items()}
        case list():
            return [_walked(member, name) for member in value]
        case str():
            return MARK if _is_sensitive(name) and value else _leaf(value)
        case _:
            return value


def _leaf(text: str) -> str:
    """Return a string of a document; one that is a document itself (an annotation) is read as one."""
    if text[:1] in ("{", "["):
        try:
            return json.dumps(_walked(json.loads(text)), ensure_ascii=False)
        except ValueError:
            pass
    return redacted_text(text)


def _is_sensitive(name: str) -> bool:
    return bool(_SENSITIVE.search(name)) and not _HARMLESS.search(name)


def _without_value(found: re.Match[str]) -> str:
    if found["value"].startswith(MARK) or not _is_sensitive(found["name"]):
        return found[0]
    return f"{found['name']}{found['gap']}{MARK}"


def _without_key(found: re.Match[str]) -> str:
    text = re.sub(r"\\n|=+$", "", found[0])
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return MARK  # cut off, and who knows what it was
    return MARK if b"PRIVATE KEY" in decoded else found[0]


def _pieces(text: str) -> list[str]:
    """Return the text in lines; a PEM block stays whole."""
    return [text] if "PRIVATE KEY" in text else text.splitlines(keepends=True)
