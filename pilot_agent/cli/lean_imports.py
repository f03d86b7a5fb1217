"""What the start does not import, though libraries of ours ask for it: 15 ms of the way to Envoy.

- `typing_extensions` makes its own copies of what `typing` has since Python 3.11, and loads `inspect`,
  `ast` and `tokenize` for that. msgspec wants `get_type_hints` of it.
- `platform` compiles a dozen patterns; `uuid`, which msgspec loads, asks it which system this is.
- `textwrap` and `msgspec.inspect` are for the JSON schemas that msgspec could print.
- `urllib.parse` and `ntpath` are for pathlib's URLs and Windows paths.
- `subprocess` and `tokenize` are for what seldom happens.
"""

import os
import typing
import urllib
from typing import Any

from pilot_agent.stand_in import stand_in

_OF_TYPING = ("NotRequired", "Required", "Self", "get_type_hints")


def keep_imports_lean() -> None:
    """Put stand-ins in the places of these modules; to be called before msgspec is imported."""
    same = {name: getattr(typing, name) for name in _OF_TYPING}
    stand_in("typing_extensions", {**same, "override": _unchanged})
    stand_in("platform", {"system": lambda: os.uname().sysname})
    assert urllib.__path__  # the package itself is empty
    stand_in("urllib.parse", {"quote_from_bytes": _quoted})
    for name in ("textwrap", "msgspec.inspect", "ntpath", "subprocess", "tokenize"):
        stand_in(name)


def _unchanged(method: Any) -> Any:  # Any: a decorator that does nothing
    return method


def _quoted(data: bytes, safe: str = "/") -> str:
    from urllib.parse import quote  # noqa: PLC0415  # the real one

    return quote(data, safe)
