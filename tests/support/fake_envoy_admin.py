"""Envoy's admin interface, as little of it as the agent asks: stats that a test sets."""

import re
from typing import Final
from urllib.parse import unquote, urlsplit

from tests.support.http_peer import HttpPeer, reply

READY: Final = {
    "cluster_manager.cds.update_success": 1,
    "cluster_manager.cds.update_rejected": 0,
    "listener_manager.lds.update_success": 1,
    "listener_manager.lds.update_rejected": 0,
    "listener_manager.workers_started": 1,
    "server.state": 0,
}


class FakeEnvoyAdmin(HttpPeer):
    """Answers `/stats` with those of `stats` that the filter matches; `asked` keeps the targets.

    `silent` makes it accept and say nothing; `status` replaces 200.
    """

    def __init__(self, stats: dict[str, int] | None = None) -> None:
        self.stats = dict(READY if stats is None else stats)
        self.status = "200 OK"
        self.silent = False
        self.pages: dict[str, bytes] = {}
        super().__init__(self._respond)

    @property
    def asked(self) -> list[str]:
        return [request.split(b" ")[1].decode() for request in self.requests]

    def _respond(self, request: bytes) -> bytes | None:
        if self.silent:
            return None
        target = request.split(b" ")[1].decode()
        path, query = urlsplit(target).path, urlsplit(target).query
        if path in self.pages:
            return reply(self.status, self.pages[path], "Content-Type: text/plain; charset=UTF-8")
        wanted = re.compile(unquote(query.partition("filter=")[2]))
        lines = [f"{name}: {value}\n" for name, value in sorted(self.stats.items()) if wanted.search(name)]
        return reply(self.status, "".join(lines).encode())
