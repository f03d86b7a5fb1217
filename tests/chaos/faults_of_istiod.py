"""istiod and its CA killed, hung, half-open, slow, refusing, lying, sending too much; bad tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from tests.chaos import resources
from tests.chaos.faults import PHASES, SERVING, Fault, Strike, add, fault
from tests.chaos.stage import Stage
from tests.support.faulty_way import FaultyWay

_CA_MATTERS: Final = frozenset({"rotation", "start"})
_SIGNED: Final = frozenset({"hot-restart", "sds"})
_UPSTREAM: Final = r"\twarn\txdsproxy\tupstream terminated with unexpected error rpc error: code = "
_NO_CERTIFICATE: Final = (
    r"(rotation failed, the certificate at hand is served on|failed to warm certificate): "
)
_TOKEN: Final = "var/run/secrets/tokens/istio-token"
_MOODS: Final[dict[str, tuple[float, float]]] = {
    "refusing": (0.5, 8.0),
    "hung": (3.0, 15.0),
    "garbage": (0.5, 5.0),
    "slow": (1.0, 4.0),
}


def _way_of(stage: Stage, whose: str) -> FaultyWay:
    return stage.way if whose == "istiod" else stage.ca_way


def _being(whose: str, mood: Any) -> Any:  # any Mood
    @contextmanager
    def way(strike: Strike) -> Iterator[None]:
        with _way_of(strike.stage, whose).being(mood):
            yield

    return way


for _mood, _lasts_s in _MOODS.items():
    add(
        Fault(
            name=f"istiod {_mood}",
            way=_being("istiod", _mood),
            lasts_s=_lasts_s,
            told="" if _mood == "slow" else _UPSTREAM,  # slow is no failure
            told_in=frozenset(PHASES) - {"start", "drain"},
            heals_within_s=45.0,
        )
    )
    add(
        Fault(
            name=f"CA {_mood}",
            way=_being("CA", _mood),
            lasts_s=(2.0, 12.0),
            variants=_SIGNED,
            phases=_CA_MATTERS,
            heals_within_s=60.0,
        )
    )


@fault("istiod killed and back", lasts_s=(0.2, 6.0), told=_UPSTREAM, heals_within_s=45.0)
def istiod_killed(strike: Strike) -> Iterator[None]:
    strike.stage.istiod.quit()
    strike.stage.way.cut()
    yield
    strike.stage.istiod.start()


@fault("istiod half-open", lasts_s=(1.0, 3.0), heals_within_s=60.0, phases=frozenset({"steady", "push"}))
def half_open(strike: Strike) -> Iterator[None]:
    """What stands is dead and never ends: found out by keepalive, 30 s and 10 s; until then no push comes."""
    with strike.stage.way.half_open():
        yield


@fault(
    "every stream ended by istiod", told=_UPSTREAM, told_in=frozenset({"steady", "push"}), heals_within_s=45.0
)
def disconnected(strike: Strike) -> Iterator[None]:
    strike.stage.istiod.disconnect_all()
    yield


@fault(
    "xDS garbage", told=r"malformed response from the XDS server", told_in=frozenset({"steady", "push"}),
    heals_within_s=45.0, phases=frozenset({"steady", "push", "hot restart"}),
)  # fmt: skip
def garbage(strike: Strike) -> Iterator[None]:
    for _ in range(3):
        strike.stage.istiod.send_raw(strike.stage.draw.randbytes(strike.stage.draw.choice((3, 100, 10_000))))
    yield


@fault("discovery silent", lasts_s=(2.0, 6.0), heals_within_s=45.0)
def silent(strike: Strike) -> Iterator[None]:
    """istiod takes requests and answers none, until its streams end."""
    strike.stage.istiod.faults.ads = "silent"
    yield
    strike.stage.istiod.faults.ads = "up"
    strike.stage.istiod.disconnect_all()


@fault(
    "50 MB push",
    lasts_s=(2.0, 2.0),
    heals_within_s=90.0,
    phases=frozenset({"steady", "hot restart"}),
    weight=0.3,
)
def large(strike: Strike) -> Iterator[None]:
    stage = strike.stage
    stage.ballast = tuple(resources.ballast(50))
    stage.push()
    yield
    stage.ballast = ()
    stage.push()


def _ca(what: str) -> Any:
    @contextmanager
    def way(strike: Strike) -> Iterator[None]:
        strike.stage.istiod.faults.ca = what  # type: ignore[assignment]
        yield
        strike.stage.istiod.faults.ca = "up"

    return way


for _what in ("unavailable", "refuse", "hang", "short-chain"):
    add(
        Fault(
            name=f"CA answers {_what}",
            way=_ca(_what),
            lasts_s=(3.0, 20.0),
            variants=_SIGNED,
            phases=_CA_MATTERS,
            heals_within_s=60.0,
        )
    )


@contextmanager
def _bad_token(strike: Strike, text: str | None) -> Iterator[None]:
    """Put this in the token's place (None: nothing), and let a new connection need one."""
    path = strike.agent.directory / _TOKEN
    path.unlink()
    if text is not None:
        path.write_text(text)
    strike.stage.istiod.disconnect_all()
    strike.stage.way.cut()
    yield
    strike.stage.provision()


@fault(
    "token deleted", lasts_s=(2.0, 8.0), heals_within_s=60.0, variants=SERVING - {"files"},
    told=r"failed to fetch token from file: .*No such file", told_in=frozenset({"steady", "push"}),
)  # fmt: skip
def token_deleted(strike: Strike) -> Iterator[None]:
    with _bad_token(strike, None):
        yield


@fault(
    "token expired", lasts_s=(2.0, 8.0), heals_within_s=60.0, variants=SERVING - {"files"},
    told=r"Unauthenticated desc = ", told_in=frozenset({"steady", "push"}),
)  # fmt: skip
def token_expired(strike: Strike) -> Iterator[None]:
    text = strike.stage.istiod.mint_token("default", "bookinfo-apps", ttl_s=-60)
    with _bad_token(strike, text):
        yield


@fault("every token refused", lasts_s=(2.0, 8.0), heals_within_s=60.0)
def tokens_refused(strike: Strike) -> Iterator[None]:
    strike.stage.istiod.faults.refuse_tokens = True
    strike.stage.istiod.disconnect_all()
    yield
    strike.stage.istiod.faults.refuse_tokens = False
