"""What the name table says of a name: every rule of the lookup, none of the wire. Pure.

Source: the reference's DNS server, lookup of a host.
"""

from typing import NamedTuple

from pilot_agent.dns.entries import ipv4s, ipv6s
from pilot_agent.dns.index import Hit, Index
from pilot_agent.dns.naming import Naming

_MAX_DEPTH = 127


class Found(NamedTuple):
    """A known name."""

    hits: list[Hit]
    target: bytes = b""  # what its CNAME names; empty: it has none
    by_wildcard: bool = False

    def addresses(self, *, ipv6: bool) -> list[bytes]:
        """Return the packed addresses of one family, in the table's order."""
        read = ipv6s if ipv6 else ipv4s
        for hit in reversed(self.hits):
            if found := read(hit.entry):
                return found
        return []


class NameTable:
    """One table of istiod's with its index; never changed, only replaced as a whole."""

    def __init__(self, table: bytes, index: bytes, naming: Naming) -> None:
        """See `Index`.

        Raises:
            ValueError: table and index do not belong together.
        """
        self._index = Index(table, index, naming)
        self._search = naming.search.encode()
        search_depth = naming.search.count(".")
        plain = self._index.wildcard_depths
        expanded = plain << search_depth if self._search else 0
        self._depths = [n for n in range(_MAX_DEPTH, 1, -1) if (plain | expanded) >> n & 1]

    @property
    def names(self) -> int:
        """Return how many plain names the table has."""
        return self._index.names

    def lookup(self, name: bytes) -> Found | None:
        """Return what is known of a name, in lower case and with a dot at its end; None: nothing.

        The name itself is looked for first, then `*.` before what is left of it without its first
        label, first two labels, and so on.
        """
        found = self._exact(name)
        if found is not None or not self._depths:
            return found
        labels = name.split(b".")  # the last one is empty
        for depth in self._depths:  # the deepest, so the longest, first
            if depth < len(labels):
                wildcard = b"*." + b".".join(labels[-depth:])
                found = self._exact(wildcard)
                if found is not None:
                    return found._replace(by_wildcard=True)
        return None

    def _exact(self, name: bytes) -> Found | None:
        """Look for the name, which may be another one's with the first search domain behind it.

        The second is a CNAME and goes first, unless both are names of one and the same entry.
        """
        own = self._index.find(name)
        search = self._search
        if search and name.endswith(search):
            base = name[: -len(search)]
            if base.endswith(b".") and not base.endswith(search):
                target = self._index.find(base)
                if target and not {hit.offset for hit in own} & {hit.offset for hit in target}:
                    return Found(target, base)
        return Found(own) if own else None
