"""What DnsActor says and is told. The table itself comes as `NameTable` (see `actors.messages.xds`)."""

import msgspec


class NameTableWanted(msgspec.Struct, frozen=True, kw_only=True):
    """Dns → UpstreamXds: a DNS proxy runs; ask istiod for its table on every stream from now on.

    Said at each start of either of them: DNS may have been switched on after the agent's start.
    """


class NameTableTaken(msgspec.Struct, frozen=True, kw_only=True):
    """Dns → UpstreamXds: this table is in my notebook (or is of no use); you need not keep it for me.

    What was sent and not taken is sent again to a restarted DnsActor.
    """

    number: int


class NameTableAsked(msgspec.Struct, frozen=True, kw_only=True):
    """Health → Dns: somebody wants to see the table. Reply: NameTableShown with the same number."""

    number: int


class NameTableShown(msgspec.Struct, frozen=True, kw_only=True):
    """Dns → Health: the table as JSON; an empty body: there is none."""

    number: int
    body: bytes
