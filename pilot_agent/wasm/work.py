"""What goes to the workers and comes back."""

from typing import Literal

import msgspec

from pilot_agent.wasm.last_good import Good
from pilot_agent.wasm.options import WasmOptions

WORKERS = {
    "wasm": "pilot_agent.wasm.worker:rewrite",
    "wasm-purge": "pilot_agent.wasm.purge_worker:purge",
}
"""Worker kind → "module:function"."""

Variant = Literal["sotw", "delta"]


class Count(msgspec.Struct, frozen=True):
    """One addition to a counter of the asking process."""

    name: str
    value: float
    labels: dict[str, str]


class RewriteRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One ECDS response."""

    variant: Variant
    body: bytes
    options: WasmOptions
    limit_s: float  # the answer is there by then, whatever registries do
    last_good: dict[str, Good] = {}  # by name: what goes out again where a module cannot be had


class RewriteAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What Envoy gets instead, or why istiod gets a NACK."""

    body: bytes  # empty when rejected
    rejected: str  # the text for istiod; empty when converted
    counts: list[Count]
    cache_entries: int
    good: dict[str, Good]  # by name: filters whose modules are there
    stale: list[str]  # names for which the last good filter stands in the body


class PurgeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Look through the cache."""

    options: WasmOptions
    in_use: list[str]  # files that Envoy was given last


class PurgeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How many modules are left."""

    cache_entries: int


encode = msgspec.msgpack.encode


def rewrite_answer(data: bytes) -> RewriteAnswer:
    """Raises: msgspec.DecodeError: the worker sent something else."""
    return msgspec.msgpack.decode(data, type=RewriteAnswer)


def purge_answer(data: bytes) -> PurgeAnswer:
    """Raises: msgspec.DecodeError: the worker sent something else."""
    return msgspec.msgpack.decode(data, type=PurgeAnswer)
