"""What the pages of the status port ask of HealthActor."""

from collections.abc import Callable, Iterable

import msgspec

from pilot_agent.status.document import ProbeRow, StatusDocument
from pilot_agent.status.exposition import Sample
from pilot_agent.status.pages import Verb


class HealthBackend(msgspec.Struct, frozen=True, kw_only=True):
    """What the pages ask of the actor; each is called on a connection's thread."""

    not_ready: Callable[[], str | None]
    carry_out: Callable[[Verb], None]
    all_samples: Callable[[], Iterable[Sample]]
    page: Callable[[tuple[ProbeRow, ...]], StatusDocument]
    arguments: Callable[[], bytes]
    names: Callable[[], bytes]
    streams: Callable[[], bytes]
    switch_dns_on: Callable[[], None]

    def not_ready_because(self) -> str | None:
        return self.not_ready()

    def command(self, verb: Verb) -> None:
        self.carry_out(verb)

    def samples(self) -> Iterable[Sample]:
        return self.all_samples()

    def status(self, probes: tuple[ProbeRow, ...]) -> StatusDocument:
        return self.page(probes)

    def command_line(self) -> bytes:
        return self.arguments()

    def name_table(self) -> bytes:
        return self.names()

    def xds_streams(self) -> bytes:
        return self.streams()

    def start_dns(self) -> None:
        self.switch_dns_on()
