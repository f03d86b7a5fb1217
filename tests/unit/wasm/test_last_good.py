"""Which filter goes on where the module of a newer one cannot be had, in whole responses."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.wasm.v3 import wasm_pb2 as http_wasm_pb2

from pilot_agent.wasm.last_good import LIMIT_BYTES, Good, LastGood
from pilot_agent.wasm.options import WasmOptions
from pilot_agent.wasm.work import RewriteAnswer, RewriteRequest, encode, rewrite_answer
from pilot_agent.wasm.worker import rewrite
from pilot_agent.xds.type_urls import ECDS
from tests.support.site import Site, page
from tests.support.wasm import extension, http_filter, module, network_filter, opened, plugin
from tests.support.xds_messages import response

ONE = module("one")


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        site.pages["/one"] = page(ONE)
        site.pages["/two"] = page(module("two"))
        yield site


def sent(content: Any, name: str = "f") -> Any:
    message = response("sotw", ECDS, "n1", "v1", **{name: b""})
    message.resources[0].ParseFromString(extension(name, content))
    return message


def work(tmp_path: Path, content: Any, last_good: dict[str, Good]) -> RewriteAnswer:
    request = RewriteRequest(
        variant="sotw",
        body=sent(content).SerializeToString(),
        options=WasmOptions(directory=str(tmp_path / "data"), request_attempts=1),
        limit_s=20.0,
        last_good=last_good,
    )
    return rewrite_answer(rewrite(encode(request)))


def delivered(answer: RewriteAnswer) -> Any:
    """Return the extension configuration that goes to Envoy."""
    return opened(type(sent(None)).FromString(answer.body).resources[0].SerializeToString())


@pytest.fixture
def good(tmp_path: Path, site: Site) -> dict[str, Good]:
    """The filter that Envoy runs: of module one, with a configuration of its own."""
    before = http_filter(plugin(f"{site.url}/one", fail_open=True))
    answer = work(tmp_path, before, {})
    assert list(answer.good) == ["f"]
    assert answer.stale == []
    return answer.good


def lying(site: Site) -> Any:
    return plugin(f"{site.url}/two", sha256="0" * 64)


def truncated(site: Site) -> Any:
    site.pages["/cut"] = page(module("two")[:6])
    return plugin(f"{site.url}/cut")


def secretless(site: Site) -> Any:
    return plugin(f"{site.url}/two", environment={"ISTIO_META_WASM_IMAGE_PULL_SECRET": ""})


def gone(site: Site) -> Any:
    return plugin(f"{site.url}/gone")


def from_nowhere(_: Site) -> Any:
    return plugin(None)


@pytest.mark.parametrize("fail_open", [False, True])
@pytest.mark.parametrize("bad", [gone, lying, truncated, secretless, from_nowhere])
def test_the_filter_before_goes_on_whole_with_its_own_configuration(
    tmp_path: Path, site: Site, good: dict[str, Good], bad: Callable[[Site], Any], fail_open: bool
) -> None:
    wanted = bad(site)
    wanted.fail_open = fail_open
    answer = work(tmp_path, http_filter(wanted), good)
    found = http_wasm_pb2.Wasm()
    assert delivered(answer).typed_config.Unpack(found)
    assert Path(found.config.vm_config.code.local.filename).read_bytes() == ONE
    assert found.config.fail_open
    assert (answer.rejected, answer.stale, answer.good) == ("", ["f"], {})
    kinds = {each.labels["result"] for each in answer.counts if each.name == "wasm_config_conversion_count"}
    assert kinds <= {"fetch_failure", "miss_remote_fetch_hint"}


def is_denied(answer: RewriteAnswer) -> bool:
    found = rbac_pb2.RBAC()
    return bool(delivered(answer).typed_config.Unpack(found)) and found.HasField("rules")


def test_without_its_module_the_filter_before_is_worth_nothing(
    tmp_path: Path, site: Site, good: dict[str, Good]
) -> None:
    wanted = http_filter(gone(site))
    file = Path(good["f"].file)
    file.write_bytes(module("harmed"))
    assert is_denied(work(tmp_path, wanted, good))
    file.unlink()
    assert is_denied(work(tmp_path, wanted, good))
    elsewhere = tmp_path / "x" / file.name
    assert is_denied(work(tmp_path, wanted, {"f": Good(good["f"].resource, str(elsewhere))}))


def test_a_filter_of_another_name_or_kind_does_not_take_its_place(
    tmp_path: Path, site: Site, good: dict[str, Good]
) -> None:
    assert is_denied(work(tmp_path, http_filter(gone(site)), {"other": good["f"]}))
    answer = work(tmp_path, network_filter(gone(site)), good)
    assert delivered(answer).typed_config.type_url.endswith("network.rbac.v3.RBAC")
    assert answer.stale == []


def test_what_is_kept_has_a_limit_and_the_others_stay() -> None:
    large = Good(b"x" * (LIMIT_BYTES // 2 + 1), "/x")
    kept = LastGood({})
    for name in ("a", "b"):
        body = sent(http_filter(plugin()), name).SerializeToString()
        assert kept.delivered(name, "sotw", body, {name: large}, ()) is (name == "a")
    assert list(kept.known) == ["a"]


def test_a_body_that_cannot_be_read_changes_nothing() -> None:
    known = {"f": Good(b"x", "/x")}
    kept = LastGood(known)
    assert not kept.delivered(1, "sotw", b"\xff", {}, ())
    assert kept.delivered(1, "sotw", sent(None, "g").SerializeToString() + b"\x12\x01\xff", {}, ()) is False
    assert kept.known == known


BAD = Good(b"bad", "/bad")


def told(nonce: str, *names: str) -> bytes:
    message = sent(http_filter(plugin()), "f")
    for name in names:
        message.resources.extend(sent(http_filter(plugin()), name).resources)
    message.nonce = nonce
    return bytes(message.SerializeToString())


def test_what_envoy_rejects_is_not_good_and_an_envoy_that_comes_later_gets_the_one_before() -> None:
    first = Good(b"good", "/good")
    kept = LastGood({})
    kept.delivered("old", "sotw", told("1"), {"f": first}, ())
    assert not kept.judged("old", "1", is_nack=False)
    kept.delivered("old", "sotw", told("2"), {"f": BAD}, ())
    assert kept.known == {"f": BAD}
    assert not kept.judged("old", "1", is_nack=True), "another response"
    assert kept.judged("old", "2", is_nack=True)
    marked = Good(b"good", "/good", rejected=b"bad")
    assert kept.known == kept.offered_to("new") == {"f": marked}
    assert kept.offered_to("old") == {"f": first}, "who has it keeps it, and rejects the other one again"
    assert not kept.delivered("old", "sotw", told("3"), {"f": BAD}, ())
    assert not kept.judged("old", "3", is_nack=True)
    assert not kept.delivered("new", "sotw", told("1"), {}, ("f",))
    assert kept.standing == {"f"}
    better = Good(b"better", "/better")
    assert kept.delivered("new", "sotw", told("2"), {"f": better}, ())
    assert not kept.judged("new", "2", is_nack=False)
    assert kept.known == {"f": better}
    assert kept.standing == set()


def test_a_first_filter_that_envoy_rejects_leaves_none() -> None:
    kept = LastGood({})
    kept.delivered(1, "sotw", told("1"), {"f": BAD}, ())
    assert kept.judged(1, "1", is_nack=True)
    assert kept.known == {}


def test_of_several_new_filters_in_one_response_nobody_can_tell_which_one_was_rejected() -> None:
    kept = LastGood({"f": Good(b"f", "/f"), "g": Good(b"g", "/g")})
    kept.delivered(1, "sotw", told("1", "g"), {"f": BAD, "g": BAD}, ())
    assert not kept.judged(1, "1", is_nack=True)
    assert kept.known == {"f": BAD, "g": BAD}


def test_a_stream_that_ended_is_forgotten() -> None:
    kept = LastGood({})
    kept.delivered(1, "sotw", told("1"), {"f": BAD}, ())
    kept.closed(1)
    assert not kept.judged(1, "1", is_nack=True)


def test_the_filter_that_envoy_has_rejected_gives_way_to_the_one_before(
    tmp_path: Path, site: Site, good: dict[str, Good]
) -> None:
    two = http_filter(plugin(f"{site.url}/two", environment={"B": "2", "A": "1", "C": "3"}))
    rejected = work(tmp_path, two, good).good["f"].resource
    last = {"f": Good(good["f"].resource, good["f"].file, rejected)}
    answer = work(tmp_path, two, last)
    assert (answer.stale, answer.good) == (["f"], {})
    found = http_wasm_pb2.Wasm()
    assert delivered(answer).typed_config.Unpack(found)
    assert Path(found.config.vm_config.code.local.filename).read_bytes() == ONE
    Path(good["f"].file).unlink()
    assert work(tmp_path, two, last).stale == [], "what is not there cannot take its place"
