"""Purges the cache. Runs in a short-lived worker process only, without protobuf."""

import msgspec

from pilot_agent.wasm.cache import Cache
from pilot_agent.wasm.options import WasmOptions
from pilot_agent.wasm.tally import Tally
from pilot_agent.wasm.web import web_of
from pilot_agent.wasm.work import PurgeAnswer, encode


def purge(options: bytes) -> bytes:
    """Take encoded WasmOptions, return an encoded PurgeAnswer."""
    decoded = msgspec.msgpack.decode(options, type=WasmOptions)
    return encode(PurgeAnswer(cache_entries=Cache(decoded, web_of(decoded), Tally()).purge()))
