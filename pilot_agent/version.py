"""Which build this is: the values of `version`, of the log's Version line and of the node's metadata.

A packager stamps a build by writing `pilot_agent/_stamp.py` with any of the five names below; what it
leaves out is `unknown`, as in the reference.
"""

from __future__ import annotations

import sys

from pilot_agent.record import Record

_UNKNOWN = "unknown"


class BuildInfo(Record):
    """The five values, spelled and ordered as `version -o json` prints them."""

    version: str = _UNKNOWN
    revision: str = _UNKNOWN
    golang_version: str = f"python{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]}"
    """The member's name is part of the interface; its value is what this program runs on."""
    status: str = _UNKNOWN
    tag: str = _UNKNOWN

    def __str__(self) -> str:
        """Return `VERSION-REVISION-STATUS`."""
        return f"{self.version}-{self.revision}-{self.status}"


def build_info() -> BuildInfo:
    """Return the stamped values."""
    try:
        from pilot_agent import _stamp  # type: ignore[attr-defined]  # noqa: PLC0415  # only in stamped builds
    except ImportError:
        return BuildInfo()
    stamped = {name: str(getattr(_stamp, name)) for name in BuildInfo._fields if hasattr(_stamp, name)}
    return BuildInfo(**stamped)
