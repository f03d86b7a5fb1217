"""What the start does not import, though libraries of ours ask for it: 15 ms of the way to Envoy.

- `typing_extensions` makes its own copies of what `typing` has since Python 3.11, and loads `inspect`,
  `ast` and `tokenize` for that. msgspec wants `get_type_hints` of it.
- `platform` compiles a dozen patterns; `uuid`, which msgspec loads, asks it which system this is.
- `textwrap` and `msgspec.inspect` are for the JSON schemas that msgspec could print.
- `urllib.parse` and `ntpath` are for pathlib's URLs and Windows paths.
- `subprocess` and `tokenize` are for what seldom happens.
- `inspect`, with `ast` and `dis`, is a seventh of all that is imported for a docstring: dataclasses, h11's,
  ask for the signature to put there. tenacity asks it what is a coroutine, once somebody decorates one.
"""

import os
import sys
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
    stand_in("inspect", {"signature": _signature})
    for name in ("textwrap", "msgspec.inspect", "ntpath", "subprocess", "tokenize"):
        stand_in(name)


def _unchanged(method: Any) -> Any:  # Any: a decorator that does nothing
    return method


def _quoted(data: bytes, safe: str = "/") -> str:
    from urllib.parse import quote  # noqa: PLC0415  # the real one

    return quote(data, safe)


def _signature(of: Any, **options: Any) -> Any:  # Any: as the real one
    """Return nothing where dataclasses ask; anybody else gets the real one's answer."""
    if sys._getframe(1).f_globals.get("__name__") == "dataclasses":  # noqa: SLF001  # there is no other way
        return ""
    import inspect  # noqa: PLC0415

    return inspect.Signature.from_callable(of, **options)  # a name that the stand-in has not
