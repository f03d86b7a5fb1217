"""Name tables for the DNS tests, and what the reference's rules make of them, said as plainly as possible."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pilot_agent.dns.entries import offsets, read_entry
from pilot_agent.dns.index import build
from pilot_agent.dns.naming import Naming
from pilot_agent.dns.table import NameTable
from proto_gen.istio.networking.nds.v1 import name_table_pb2


@dataclass(frozen=True)
class Host:
    """One entry of a table."""

    ips: Sequence[str] = ()
    registry: str = "Kubernetes"
    shortname: str = ""
    namespace: str = ""
    alt_hosts: Sequence[str] = ()


def encoded(hosts: Mapping[str, Host]) -> bytes:
    """Return the NameTable's bytes as Google's own library writes them."""
    table = name_table_pb2.NameTable()
    for name, host in hosts.items():
        entry = table.table[name]
        entry.ips.extend(host.ips)
        entry.registry, entry.shortname, entry.namespace = host.registry, host.shortname, host.namespace
        entry.alt_hosts.extend(host.alt_hosts)
    return table.SerializeToString(deterministic=True)


def table_of(hosts: Mapping[str, Host], naming: Naming) -> NameTable:
    raw = encoded(hosts)
    return NameTable(raw, build(raw, naming), naming)


@dataclass
class Model:
    """The reference's table: four maps, filled entry by entry."""

    naming: Naming
    known: set[str] = field(default_factory=set)
    ipv4: dict[str, list[str]] = field(default_factory=dict)
    ipv6: dict[str, list[str]] = field(default_factory=dict)
    cname: dict[str, str] = field(default_factory=dict)

    def fill(self, hosts: Mapping[str, Host]) -> "Model":
        raw = encoded(hosts)
        for offset in offsets(raw):  # of two entries with one name the later one counts
            name = read_entry(raw, offset).host.decode()
            self._add(name, hosts[name])
        return self

    def lookup(self, name: str) -> tuple[str, str, list[str], list[str]] | None:
        """Return (matched name, its CNAME's target or "", IPv4s, IPv6s); None: unknown."""
        labels = name.rstrip(".").split(".")
        candidates = [name, *("*." + ".".join(labels[n + 1 :]) + "." for n in range(len(labels)))]
        match = next((each for each in candidates if each in self.known), None)
        if match is None:
            return None
        target = self.cname.get(match, "")
        return match, target, self.ipv4.get(target or match, []), self.ipv6.get(target or match, [])

    def _add(self, name: str, host: Host) -> None:
        v4, v6 = [ip for ip in host.ips if _version(ip) == 4], [ip for ip in host.ips if _version(ip) == 6]
        if not (v4 or v6):
            return
        names = self._names(name, host)
        search = self.naming.search
        for each in names:
            self.known.add(each)
            self.ipv4.update({each: v4} if v4 else {})
            self.ipv6.update({each: v6} if v6 else {})
            expanded = each + search
            if search and not each.endswith(search) and expanded not in names:
                self.cname[expanded] = each
                self.known.add(expanded)

    def _names(self, name: str, host: Host) -> set[str]:
        if host.registry != "Kubernetes":
            return {name.lower() if name.endswith(".") else name.lower() + "."}
        if name.endswith("."):
            return set()
        found = {name.lower() + "."}
        if self.naming.domain and name.endswith(self.naming.domain):
            short, space = host.shortname.lower(), host.namespace.lower()
            found |= {f"{short}.{space}.", f"{short}.{space}.{self.naming.domain.split('.')[0]}."}
            found |= {f"{alt.lower()}." for alt in host.alt_hosts}
            if host.namespace == self.naming.namespace:
                found.add(f"{short}.")
        return found


def _version(ip: str) -> int:
    try:
        return ipaddress.ip_address(ip).version
    except ValueError:
        return 0
