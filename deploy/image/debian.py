"""Reads a Debian root's package database, and copies packages without their manager."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

WANTED = (
    "ca-certificates",
    "iptables",
    "libstdc++6",
    "nftables",
    "python3-minimal",
    "libpython3-stdlib",
    "libc6",
)
_SCRIPTS_ONLY = frozenset(
    # what these packages ask for their installation or their shell scripts, and no program needs
    {
        "debconf",
        "debconf-2.0",
        "dpkg",
        "init-system-helpers",
        "media-types",
        "openssl",
        "tzdata",
        "netbase",
        "mailcap",
    }
)
_LEFT_OUT = re.compile(
    r"/usr/share/(doc|man|locale|lintian|bash-completion|info|perl5|apport|gcc|gdb|debhelper|pixmaps)(/|$)"
    r"|/usr/lib/python3[^/]*/(test|idlelib|tkinter|ensurepip|turtledemo|pydoc_data|lib2to3)(/|$)"
    r"|/usr/lib/python3(/|$)|\.mo$"
    r"|/etc/(init\.d|default|cron|apt|ca-certificates/update\.d|systemd)(/|$)|/lib/systemd(/|$)"
    r"|/usr/(s?bin)/(update-ca-certificates|pdb.*|pydoc.*|py3.*|pygettext.*|2to3.*|iptables-apply|ip6tables-apply)$"
)
_ALTERNATIVES = ("iptables", "ip6tables")


@dataclass(frozen=True)
class Package:
    """One installed package; `needs`: the names that Depends and Pre-Depends list, first choices alone."""

    name: str
    version: str
    architecture: str
    needs: tuple[str, ...]
    provides: tuple[str, ...]


def packages_of(root: Path) -> list[Package]:
    """Return the installed packages, by name."""
    status = root / "var/lib/dpkg/status"
    if not status.is_file():
        return []
    found = []
    for paragraph in status.read_text().split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", paragraph, re.MULTILINE))
        if "installed" in fields.get("Status", ""):
            needs = f"{fields.get('Depends', '')},{fields.get('Pre-Depends', '')}"
            found.append(
                Package(
                    fields["Package"],
                    fields["Version"],
                    fields["Architecture"],
                    tuple(_names(needs)),
                    tuple(_names(fields.get("Provides", ""))),
                )
            )
    return sorted(found, key=lambda package: package.name)


def is_newer(version: str, than: str) -> bool:
    """Return whether a version comes after another in Debian's order."""
    return subprocess.run(["dpkg", "--compare-versions", version, "gt", than], check=False).returncode == 0


def differences(packages: Sequence[Package], lock: Path) -> list[str]:
    """Return what is not as the lock says; a package that the image does not need may be missing there."""
    rows = [line.split() for line in lock.read_text().splitlines() if line and not line.startswith("#")]
    locked = {(architecture, name): version for architecture, name, version in rows}
    machine = next((one.architecture for one in packages if one.architecture != "all"), "")
    needed = closure(packages)
    found = []
    for one in packages:
        expected = locked.get((machine, one.name))
        if expected is None and one.name in needed:
            found.append(f"{one.name} got={one.version} expected=no such package for {machine}")
        elif expected is not None and expected != one.version:
            found.append(f"{one.name} got={one.version} expected={expected}")
    return found


def closure(packages: Sequence[Package], wanted: Iterable[str] = WANTED) -> set[str]:
    """Return the names of the wanted packages and all that they need to run."""
    by_name = {name: package for package in packages for name in package.provides}
    by_name |= {package.name: package for package in packages}
    todo, found = list(wanted), set[str]()
    while todo:
        package = by_name.get(todo.pop())
        if package is not None and package.name not in found | _SCRIPTS_ONLY:
            found.add(package.name)
            todo += package.needs
    return found


def copy_packages(base: Path, output: Path) -> None:
    """Copy the files of the closure, and the bundle of CA certificates that its script has made."""
    for name in sorted(closure(packages_of(base))):
        lists = [
            *(base / "var/lib/dpkg/info").glob(f"{name}.list"),
            *(base / "var/lib/dpkg/info").glob(f"{name}:*.list"),
        ]
        for listed in lists:
            for path in listed.read_text().splitlines():
                if not _LEFT_OUT.search(path):
                    _copy(base, output, path)
    for path in (
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/ld.so.cache",
        "/etc/os-release",
        "/usr/lib/os-release",
    ):
        _copy(base, output, path)


def link_alternatives(base: Path, output: Path) -> None:
    """Point iptables and its relatives at the nft variant, without /etc/alternatives."""
    for name in (f"{stem}{suffix}" for stem in _ALTERNATIVES for suffix in ("", "-save", "-restore")):
        place = output / "usr/sbin" / name
        if not place.is_symlink() and (base / "usr/sbin/xtables-nft-multi").exists():
            place.symlink_to("xtables-nft-multi")


def _names(text: str) -> list[str]:
    choices = (part.split("|")[0] for part in text.split(","))
    return [re.sub(r"[ (:].*", "", choice.strip()) for choice in choices if choice.strip()]


def _copy(base: Path, output: Path, path: str) -> None:
    """Copy one file or link, its parents with their links (/lib → usr/lib) resolved."""
    source = base / path[1:]
    parent = Path(os.path.realpath(source.parent))
    if not parent.is_relative_to(base) or not os.path.lexists(source):
        return
    target = output / parent.relative_to(base) / source.name
    if source.is_dir() and not source.is_symlink():
        target.mkdir(parents=True, exist_ok=True)
    elif not os.path.lexists(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
