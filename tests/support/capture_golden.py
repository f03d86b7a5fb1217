"""Recorded runs of the reference's capture command, and how one is replayed without a process."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pilot_agent.capture.options import CaptureOptions, CaptureSettings, Machine, build, check
from pilot_agent.cli.capture import FLAGS, settings_from
from pilot_agent.cli.global_flags import GLOBAL_FLAGS
from pilot_agent.cli.parser import Parser

_ADDRESSES = {"4": "240.240.240.240", "6": "2001:db8:1::1"}


@dataclass(frozen=True)
class CaptureCase:
    """One line of cases.tsv with the file beside it."""

    name: str
    family: str
    servers: tuple[str, ...]
    environment: Mapping[str, str]
    arguments: tuple[str, ...]
    golden: str

    def settings(self) -> CaptureSettings:
        return settings_for(*self.arguments, environment=self.environment)

    def options(self) -> CaptureOptions:
        settings = self.settings()
        dual_stack = settings.dual_stack and "6" in self.family
        address = _ADDRESSES["6" if dual_stack else self.family[0]]
        v4, v6 = (tuple(one for one in self.servers if (":" in one) == wanted) for wanted in (False, True))
        check(settings)
        return build(
            settings,
            Machine(local_address=address, has_ipv6=":" in address, dns_servers_v4=v4, dns_servers_v6=v6),
        )


def settings_for(*words: str, environment: Mapping[str, str] | None = None) -> CaptureSettings:
    """Return the settings that `istio-iptables WORDS` gets."""
    parser = Parser((*FLAGS, *GLOBAL_FLAGS), drop_unknown=False)
    parser.parse(words)
    return settings_from(parser.values, environment or {})


def options_for(
    *words: str,
    environment: Mapping[str, str] | None = None,
    ipv6: bool = False,
    dns_servers: Sequence[str] = (),
) -> CaptureOptions:
    """Return what the builders get for `istio-iptables WORDS`."""
    v4, v6 = (tuple(one for one in dns_servers if (":" in one) == wanted) for wanted in (False, True))
    machine = Machine(has_ipv6=ipv6, dns_servers_v4=v4, dns_servers_v6=v6)
    return build(settings_for(*words, environment=environment), machine)


def capture_cases(folder: Path) -> list[CaptureCase]:
    """Return the cases of a folder."""
    lines = (folder / "cases.tsv").read_text(encoding="utf-8").splitlines()
    rows = [[*line.split("\t"), ""][:5] for line in lines if line and not line.startswith("#")]
    return [_case(folder, row) for row in rows]


def _case(folder: Path, row: Sequence[str]) -> CaptureCase:
    name, family, dns, environment, arguments = row
    pairs = () if environment == "-" else environment.split(" ")
    return CaptureCase(
        name=name,
        family=family,
        servers=() if dns in ("-", "none") else tuple(dns.split(",")),
        environment={pair.partition("=")[0]: pair.partition("=")[2] for pair in pairs},
        arguments=tuple(shlex.split(arguments)),
        golden=(folder / f"{name}.golden").read_text(encoding="utf-8"),
    )
