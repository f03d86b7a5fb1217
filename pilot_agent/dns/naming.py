"""Which names one entry of the table has. Pure.

Source: the reference's DNS server, alternate hosts.
"""

from typing import Self

import msgspec

KUBERNETES = b"Kubernetes"


class Naming(msgspec.Struct, frozen=True, kw_only=True):
    """What the names of the table are relative to; all in lower case but `namespace`."""

    namespace: str = ""  # the proxy's own
    domain: str = ""  # without the proxy's namespace: `svc.cluster.local`
    search: str = ""  # first search domain, with a dot at its end; empty: there is none

    @classmethod
    def of(cls, *, namespace: str, domain: str, search: tuple[str, ...]) -> Self:
        """Take the proxy's domain as it is on the command line, and the search list of resolv.conf."""
        first, _, rest = domain.partition(".")
        first_search = search[0].lower().rstrip(".") + "." if search and search[0].strip(".") else ""
        return cls(namespace=namespace, domain=rest if first == namespace else domain, search=first_search)


class Entry(msgspec.Struct, frozen=True):
    """One entry of the table: a host and its addresses as they were sent."""

    host: bytes = b""
    ips: tuple[bytes, ...] = ()
    registry: bytes = b""
    shortname: bytes = b""
    namespace: bytes = b""
    alt_hosts: tuple[bytes, ...] = ()


class Namer:
    """Gives the names of entries: in lower case, with a dot at the end."""

    def __init__(self, naming: Naming) -> None:
        self._namespace, self._domain = naming.namespace.encode(), naming.domain.encode()
        self._first_label = self._domain.partition(b".")[0]

    def names(self, entry: Entry) -> list[bytes]:
        """Return the plain names of an entry, its host first; a name may stand there twice."""
        host = entry.host
        if not host or host == b".":
            return []
        if entry.registry != KUBERNETES:
            return [host.lower() if host.endswith(b".") else host.lower() + b"."]
        if host.endswith(b"."):
            return []
        found = [host.lower() + b"."]
        if self._domain and host.endswith(self._domain):
            found += self._alternates(entry)
        return found

    def _alternates(self, entry: Entry) -> list[bytes]:
        found = [b"%s." % each.lower() for each in entry.alt_hosts]
        short, namespace = entry.shortname.lower(), entry.namespace.lower()
        if short and namespace:
            found += [b"%s.%s." % (short, namespace), b"%s.%s.%s." % (short, namespace, self._first_label)]
        if short and entry.namespace == self._namespace:
            found.append(b"%s." % short)
        return found
