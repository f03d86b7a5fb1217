"""Which of the machine's iptables is used: a rule counts only in the backend that holds the others.

Per family: legacy if it works and holds rules, else nft if it works, else the plain name.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from pilot_agent.capture.errors import ConfigurationError, ExecutionError
from pilot_agent.capture.programs import Command, Completed, Programs
from pilot_agent.capture.saved import Saved, has_our_chains, has_rules, parse_saved
from pilot_agent.gotext import quote

NAMES: Final = {4: "iptables", 6: "ip6tables"}
_TABLE_NAMES: Final = {4: "/proc/net/ip_tables_names", 6: "/proc/net/ip6_tables_names"}
"""The legacy tables of this network namespace; a table appears when it is first used."""

_VERSION: Final = re.compile(r"v([0-9]+(?:\.[0-9]+)+)")
_WAITING_SINCE: Final = (1, 6, 2)
_LOCKFILE_SINCE: Final = (1, 8, 6)
_XTABLES_EXIT: Final = {
    1: "other problem",
    2: "parameter problem",
    3: "version problem",
    4: "resource problem",
}
_MOST_WORDS: Final = 240
"""A line of iptables-restore may have 255, of which it needs some itself."""

_PROBE: Final = "* nat\n-A INPUT -p 255 -j RETURN\n-D INPUT -p 255 -j RETURN\nCOMMIT\n"
"""A rule is added and deleted in one transaction: a kill at any moment leaves nothing."""


class Backend(NamedTuple):
    """One family's iptables."""

    family: int
    name: str
    version: tuple[int, ...] = (0, 0, 0)
    is_nft: bool = False

    @property
    def save(self) -> str:
        return f"{self.name}-save"

    @property
    def waiting(self) -> tuple[str, ...]:
        """Return the words that have a writing command wait for the lock of legacy iptables."""
        return () if self.is_nft or self.version < _WAITING_SINCE else ("--wait=30",)

    @property
    def takes_lockfile(self) -> bool:
        """Return whether the place of the lock can be given in the environment."""
        return self.version >= _LOCKFILE_SINCE

    @property
    def compares_loosely(self) -> bool:
        """Return whether `-C` and `-D` take a rule for another that differs in the values of its matches.

        ip6tables of the legacy kind does, up to 1.8.9 at least: `--uid-owner 0` is found as `--uid-owner 7`.
        """
        return self.family == 6 and not self.is_nft

    def restore(self, text: str) -> Command:
        return Command((f"{self.name}-restore", "--noflush", *self.waiting), fitting(text))

    def command(self, words: tuple[str, ...]) -> Command:
        """Return a command that reads `words` as `restore` would: a blank in one of them ends it."""
        return Command((self.name, *filter(None, " ".join(words).split(" ")), *self.waiting))


class Look(NamedTuple):
    """What a backend showed: itself and its rules, or why it cannot be used."""

    backend: Backend
    saved: Saved
    error: str = ""

    @property
    def has_our_chains(self) -> bool:
        return not self.error and has_our_chains(self.saved)

    @property
    def has_rules(self) -> bool:
        return not self.error and has_rules(self.saved)


def choose(programs: Programs, forced: str, unusable: Collection[str] = ()) -> dict[int, Look]:
    """Return each family's backend with what it holds; one with `error` cannot be used.

    That legacy holds rules is told by its rules, not by the length of its output. Rules of ours decide
    before others', so that a second run always finds what the first one made. Nothing is written: whether a
    backend can write is seen when it is used (`can_write`), for a rule on trial costs as much as the rules.

    Raises:
        ConfigurationError: `forced` is neither empty, `legacy` nor `nft`.
    """
    check_forced(forced)
    if forced:
        looks = look(programs, [(family, f"-{forced}") for family in NAMES])
        return {family: one for (family, _), one in looks.items()}
    suffixes = [(family, "-legacy") for family in NAMES if legacy_is_used(family)]
    every = look(programs, [*suffixes, *((family, "-nft") for family in NAMES)])
    usable = {key: one for key, one in every.items() if one.backend.name not in unusable}
    chosen = {family: one for family in NAMES if (one := _best(family, usable)) is not None}
    plain = look(programs, [(family, "") for family in NAMES if family not in chosen])
    return chosen | {family: one for (family, _), one in plain.items()}


def check_forced(forced: str) -> None:
    """Check the value of --force-iptables-binary.

    Raises:
        ConfigurationError: it is neither empty, `legacy` nor `nft`.
    """
    if forced not in ("", "legacy", "nft"):
        raise ConfigurationError(
            f"invalid FORCE_IPTABLES_BINARY value {quote(forced)} (flag --force-iptables-binary): "
            "expected legacy or nft"
        )


def fitting(text: str) -> str:
    """Return an input for iptables-restore without lines of more words than it reads.

    Only the rule of the owner groups gets that long: 5 words a group, and 3 when they are written together.
    """
    lines = text.split("\n")
    return "\n".join(line if line.count(" ") < _MOST_WORDS else _shorter(line) for line in lines)


def can_write(programs: Programs, backend: Backend) -> bool:
    """Return whether a rule can be added, which the kernel or a missing right may not allow."""
    return programs.run(backend.restore(_PROBE)).status == 0


def look(programs: Programs, names: Iterable[tuple[int, str]]) -> dict[tuple[int, str], Look]:
    """Look at backends (family, suffix of the name) without changing anything, all at the same time."""
    keys = list(names)
    backends = [Backend(family, NAMES[family] + suffix, is_nft=suffix == "-nft") for family, suffix in keys]
    asked = [one for one in backends if not one.is_nft]  # of nft the version does not matter
    commands = [Command((one.save,)) for one in backends] + [
        Command((one.save, "--version")) for one in asked
    ]
    ended = programs.run_all(commands)
    versions = dict(zip(asked, ended[len(backends) :], strict=True))
    pairs = zip(keys, backends, ended, strict=False)
    return {key: _looked(backend, saved, versions.get(backend)) for key, backend, saved in pairs}


def legacy_is_used(family: int) -> bool:
    """Return whether legacy iptables has a table in this network namespace; asking makes none."""
    try:
        with open(_TABLE_NAMES[family], encoding="utf-8") as file:  # noqa: PTH123  # pathlib costs time
            return bool(file.read().strip())
    except FileNotFoundError:
        return False
    except OSError:
        return True


def check(completed: Completed, what: str) -> str:
    """Return what a program wrote.

    Raises:
        ExecutionError: it failed; the text says how.
    """
    if completed.status == 0:
        return completed.output
    problem = _XTABLES_EXIT.get(completed.status)
    said = completed.error.strip()
    if problem:
        said = f"xtables {problem}: {said.partition(':')[2].strip() or said}"
    elif completed.status < 0:
        said = f"killed by signal {-completed.status} {said}".strip()
    raise ExecutionError(f"failed to execute {what}: {said or f'exit status {completed.status}'}")


def _shorter(line: str) -> str:
    return re.sub(r"--gid-owner +", "--gid-owner=", line.replace("-m owner ", "-mowner "))


def _best(family: int, looks: Mapping[tuple[int, str], Look]) -> Look | None:
    """Return the best that can be used; None: only the plain name is left."""
    found = [one for suffix in ("-legacy", "-nft") if (one := looks.get((family, suffix))) and not one.error]
    with_ours = [one for one in found if one.has_our_chains]
    return next((one for one in (*with_ours, *found) if one.backend.is_nft or one.has_rules), None)


def _looked(backend: Backend, saved: Completed, version: Completed | None) -> Look:
    if saved.status != 0:
        return Look(backend, {}, _error(saved, backend.save))
    if version is not None:
        found = _VERSION.search(version.output)
        if found is None and "unrecognized option" not in version.error:
            return Look(backend, {}, f"no version in the output of {backend.save} --version")
        numbers = tuple(map(int, found[1].split("."))) if found else (0, 0, 0)
        backend = backend._replace(version=numbers, is_nft="nf_tables" in version.output)
    return Look(backend, parse_saved(saved.output))


def _error(completed: Completed, what: str) -> str:
    try:
        check(completed, what)
    except ExecutionError as error:
        return str(error)
    return ""
