"""Mounted certificate files swapped in every way, and a clock that jumps."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from lab.authority import Authority
from tests.chaos.faults import Fault, Strike, add, fault

_FILES: Final = frozenset({"files"})
_PHASES: Final = frozenset({"steady", "push", "hot restart"})
_NAMES: Final = ("cert-chain.pem", "key.pem", "root-cert.pem")
_SPIFFE: Final = "spiffe://cluster.local/ns/default/sa/bookinfo-apps"


def _folder(strike: Strike) -> Path:
    return strike.agent.directory / "etc/certs"


def _in_place(strike: Strike, name: str) -> Path:
    """Return the file behind the links, as a writer without care finds it."""
    return (_folder(strike) / name).resolve()


def _truncate(strike: Strike) -> None:
    path = _in_place(strike, strike.stage.draw.choice(_NAMES))
    path.write_bytes(path.read_bytes()[: strike.stage.draw.choice((0, 1, 30, 200))])


def _garbage(strike: Strike) -> None:
    _in_place(strike, strike.stage.draw.choice(_NAMES)).write_bytes(strike.stage.draw.randbytes(500))


def _other_key(strike: Strike) -> None:
    _in_place(strike, "key.pem").write_bytes(strike.stage.istiod.authority.issue(_SPIFFE).private_key_pem)


def _expired(strike: Strike) -> None:
    pair = strike.stage.istiod.authority.issue(_SPIFFE, validity_s=-60)
    _in_place(strike, "key.pem").write_bytes(pair.private_key_pem)
    _in_place(strike, "cert-chain.pem").write_bytes(pair.certificate_chain_pem)


def _deleted(strike: Strike) -> None:
    (_folder(strike) / strike.stage.draw.choice(_NAMES)).unlink()


def _directory(strike: Strike) -> None:
    path = _folder(strike) / strike.stage.draw.choice(_NAMES)
    path.unlink()
    path.mkdir()


def _dangling(strike: Strike) -> None:
    path = _folder(strike) / strike.stage.draw.choice(_NAMES)
    path.unlink()
    path.symlink_to("..data/nothing")


def _all_gone(strike: Strike) -> None:
    shutil.rmtree(_folder(strike))


def _moved_away(strike: Strike) -> None:
    folder = _folder(strike)
    folder.rename(folder.with_name("certs-away"))


def _endless(strike: Strike) -> None:
    path = _folder(strike) / strike.stage.draw.choice(_NAMES)
    path.unlink()
    path.symlink_to("/dev/zero")


def _repaired(strike: Strike) -> None:
    """Mount the folder anew, with a new and whole set."""
    folder = _folder(strike)
    for each in (folder, folder.with_name("certs-away")):
        shutil.rmtree(each, ignore_errors=True)
    strike.stage.published = 0
    strike.stage.publish()


def _way(spoil: Callable[[Strike], None]) -> Any:
    @contextmanager
    def way(strike: Strike) -> Iterator[None]:
        spoil(strike)
        yield
        _repaired(strike)

    return way


for _name, _spoil in {
    "truncated": _truncate,
    "of random bytes": _garbage,
    "with another key": _other_key,
    "expired": _expired,
    "deleted": _deleted,
    "become a directory": _directory,
    "linked to nothing": _dangling,
    "linked to /dev/zero": _endless,
    "all deleted": _all_gone,
    "moved away": _moved_away,
}.items():
    add(
        Fault(
            name=f"certificate file {_name}",
            way=_way(_spoil),
            lasts_s=(11.0, 12.5),  # who reads them tries for ten seconds before it says so
            variants=_FILES,
            phases=_PHASES,
            told=r"\t(error|warn)\t.*(certs|certificate|key|PEM|pem)",
            heals_within_s=20.0,
        )
    )


@fault("certificates published again and again", variants=_FILES, phases=_PHASES, heals_within_s=20.0)
def published(strike: Strike) -> Iterator[None]:
    for _ in range(10):
        strike.stage.publish()
        time.sleep(strike.stage.draw.uniform(0.0, 0.3))  # a pace, not a wait
    yield


@fault("certificate files rewritten one by one", variants=_FILES, phases=_PHASES, heals_within_s=20.0)
def rewritten(strike: Strike) -> Iterator[None]:
    """Chain and key do not fit between the two writes."""
    pair = strike.stage.istiod.authority.issue(_SPIFFE)
    _in_place(strike, "cert-chain.pem").write_bytes(pair.certificate_chain_pem)
    time.sleep(strike.stage.draw.uniform(0.0, 0.5))
    _in_place(strike, "key.pem").write_bytes(pair.private_key_pem)
    yield


@fault(
    "root file of another CA", lasts_s=(1.0, 5.0), variants=_FILES, phases=frozenset({"steady"}),
    cuts=frozenset({"http1-new", "http1-kept", "http2", "tcp-new", "tcp-kept"}), heals_within_s=20.0,
    readiness_tells=False,
)  # fmt: skip
def foreign_root(strike: Strike) -> Iterator[None]:
    """It is whole and well, so it is used: the gateway is not trusted any more, as the file says."""
    _in_place(strike, "root-cert.pem").write_text(Authority().root_pem)
    yield
    _repaired(strike)


def _clock(*jumps: str) -> Any:
    """The agent's wall clock alone jumps, not Envoy's."""

    @contextmanager
    def way(strike: Strike) -> Iterator[None]:
        path = strike.agent.directory.parent / "clock"
        for jump in jumps:
            path.write_text(jump)
            time.sleep(strike.stage.draw.uniform(0.1, 6.0))  # a pace, not a wait
        yield
        path.write_text("+0")

    return way


for _name, _jumps in {
    "an hour ahead": ("+3600",),
    "an hour back": ("-3600",),
    "a day back": ("-86400",),
    "a day ahead": ("+90000",),
    "ten years ahead": ("+315360000",),
    "to and fro": ("+90000", "-86400", "+7200", "-60"),
}.items():
    add(
        Fault(
            name=f"clock {_name}",
            way=_clock(*_jumps),
            lasts_s=(1.0, 12.0),
            variants=frozenset({"clock"}),
            phases=frozenset({"steady", "push"}),
            heals_within_s=90.0,
        )
    )
