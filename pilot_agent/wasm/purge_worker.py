"""Purges the cache. Runs in a short-lived worker process only, without protobuf."""

import msgspec

from pilot_agent.wasm.cache import Cache
from pilot_agent.wasm.tally import Tally
from pilot_agent.wasm.web import web_of
from pilot_agent.wasm.work import PurgeAnswer, PurgeRequest, encode


def purge(request: bytes) -> bytes:
    """Take an encoded PurgeRequest, return an encoded PurgeAnswer."""
    wanted = msgspec.msgpack.decode(request, type=PurgeRequest)
    cache = Cache(wanted.options, web_of(wanted.options), Tally())
    return encode(PurgeAnswer(cache_entries=cache.purge(wanted.in_use)))
