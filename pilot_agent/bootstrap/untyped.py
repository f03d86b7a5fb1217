"""Node metadata as the environment gives it, before any of it is given a type.

Source: the reference's command line, section "Node metadata from the environment and from files".
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pilot_agent.environment import Environment
from pilot_agent.log import get_logger
from pilot_agent.proxyconfig.text import valid_text
from pilot_agent.unreadable import UNREADABLE

_log = get_logger()

Members = dict[str, Any]  # Any: JSON values

_TEXT: Final = "ISTIO_META_"
_JSON: Final = "ISTIO_METAJSON_"


def untyped_members(environment: Environment, proxy_metadata: Mapping[str, str]) -> Members:
    """Return the members of `proxyMetadata`, then ISTIO_META_*, then ISTIO_METAJSON_*, later ones winning."""
    members: Members = {
        name.removeprefix(_TEXT): value for name, value in proxy_metadata.items() if name.startswith(_TEXT)
    }
    members |= {valid_text(name): valid_text(value) for name, value in environment.items(_TEXT)}
    for _, text in environment.items(_JSON):
        members |= _object(valid_text(text))
    if address := environment.string("DNS_PROXY_ADDR"):
        members["DNS_PROXY_ADDR"] = valid_text(address)
    return members


def static_labels(environment: Environment) -> dict[str, str]:
    """Return the labels of ISTIO_METAJSON_LABELS; a value that is no text makes all of them void."""
    text = valid_text(environment.string(f"{_JSON}LABELS"))
    if not text:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except UNREADABLE as error:
        _log.warn(f'Env variable with value "{text}" failed json unmarshal: {error}')
        return {}


def _object(text: str) -> Members:
    try:
        return msgspec.json.decode(text, type=Members)
    except UNREADABLE as error:
        _log.warn(f'Env variable with value "{text}" failed json unmarshal: {error}')
        return {}
