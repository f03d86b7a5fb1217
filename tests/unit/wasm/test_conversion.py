"""What becomes of ECDS: which resources are rewritten, how, and when istiod gets a NACK."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.http.wasm.v3 import wasm_pb2 as http_wasm_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from envoy.extensions.filters.network.wasm.v3 import wasm_pb2 as network_wasm_pb2
from envoy.extensions.wasm.v3 import wasm_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2, struct_pb2, wrappers_pb2
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from udpa.type.v1 import typed_struct_pb2

from pilot_agent.wasm.cache import Wanted
from pilot_agent.wasm.ecds import needs_rewriting
from pilot_agent.wasm.errors import FetchError, RejectedError
from pilot_agent.wasm.filters import convert
from pilot_agent.wasm.options import WasmOptions
from pilot_agent.wasm.purge_worker import purge
from pilot_agent.wasm.work import (
    PurgeRequest,
    RewriteAnswer,
    RewriteRequest,
    encode,
    purge_answer,
    rewrite_answer,
)
from pilot_agent.wasm.worker import rewrite
from pilot_agent.wire import bytes_field
from pilot_agent.xds.envelope import read_delta_response, read_sotw_response
from pilot_agent.xds.type_urls import ECDS
from tests.support.site import Site, page, silent
from tests.support.wasm import (
    TYPES,
    as_struct,
    extension,
    http_filter,
    module,
    network_filter,
    opened,
    plugin,
)
from tests.support.xds_messages import response

ONE = module("one")
FILTERS = pytest.mark.parametrize(
    ("make", "kind"),
    [(http_filter, http_wasm_pb2.Wasm), (network_filter, network_wasm_pb2.Wasm)],
    ids=["http", "network"],
)


class Modules:
    """Stands in for the cache: notes what is wanted."""

    def __init__(self, failure: str = "") -> None:
        self.wanted: list[Wanted] = []
        self.timeouts_s: list[float] = []
        self._failure = failure

    def __call__(self, wanted: Wanted, timeout_s: float) -> Path:
        self.wanted.append(wanted)
        self.timeouts_s.append(timeout_s)
        if self._failure:
            raise FetchError(self._failure)
        return Path("/data/module.wasm")


def converted(resource: bytes, kind: Any, modules: Modules | None = None) -> Any:
    """Return the Wasm filter that comes out."""
    result = convert(resource, modules or Modules())
    assert result.resource is not None
    config = opened(result.resource)
    assert config.name == "the filter"
    found = kind()
    assert config.typed_config.Unpack(found)
    return found


@FILTERS
@pytest.mark.parametrize("wrap", [lambda message: message, as_struct], ids=["typed", "TypedStruct"])
def test_remote_code_becomes_a_local_file_and_nothing_else_changes(
    make: Callable[[Any], Any], kind: Any, wrap: Callable[[Any], Any]
) -> None:
    configuration = any_pb2.Any()
    configuration.Pack(wrappers_pb2.StringValue(value="hello"))
    before = plugin(
        "https://registry.test/x.wasm",
        configuration=configuration,
        fail_open=True,
        capability_restriction_config=wasm_pb2.CapabilityRestrictionConfig(
            allowed_capabilities={"proxy_log": wasm_pb2.SanitizationConfig()}
        ),
    )
    modules = Modules()
    found = converted(extension("the filter", wrap(make(before))), kind, modules)
    assert modules.wanted == [Wanted(url="https://registry.test/x.wasm", resource="the filter")]
    assert modules.timeouts_s == [30.0]
    before.vm_config.code.local.filename = "/data/module.wasm"
    assert found.config == before


def test_settings_of_a_struct_may_be_structs_themselves() -> None:
    configuration = any_pb2.Any()
    inner = struct_pb2.Struct()
    inner.update({"a": [1, True, None, "x"], "b": {"c": 2.5}})
    configuration.Pack(inner)
    before = plugin("https://registry.test/x", configuration=configuration)
    found = converted(extension("the filter", as_struct(http_filter(before))), http_wasm_pb2.Wasm)
    assert found.config.configuration == configuration


def test_what_the_control_plane_tells_the_agent_is_used_and_taken_out() -> None:
    environment = {
        "ISTIO_META_WASM_IMAGE_PULL_SECRET": '{"auths":{}}',
        "ISTIO_META_WASM_IMAGE_PULL_POLICY": "Always",
        "ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION": "42",
        "ISTIO_META_SOMETHING_ELSE": "x",
        "MINE": "kept",
    }
    modules = Modules()
    sent = extension("the filter", http_filter(plugin("oci://r.test/a", environment=environment)))
    found = converted(sent, http_wasm_pb2.Wasm, modules)
    assert found.config.vm_config.environment_variables.key_values == {"MINE": "kept"}
    assert modules.wanted == [
        Wanted(
            url="oci://r.test/a", resource="the filter", version="42", policy="Always", secret='{"auths":{}}'
        )
    ]
    assert "auths" not in repr(modules.wanted)


@pytest.mark.parametrize(
    ("environment", "host_env", "is_left"),
    [
        ({"ISTIO_META_X": "y"}, (), False),
        ({"ISTIO_META_X": "y"}, ("HOME",), True),
        ({}, (), False),
        ({"A": "b"}, (), True),
    ],
)
def test_an_empty_environment_is_dropped(
    environment: dict[str, str], host_env: tuple[str, ...], is_left: bool
) -> None:
    config = plugin("https://r.test/x", environment=environment, host_env=host_env)
    found = converted(extension("the filter", http_filter(config)), http_wasm_pb2.Wasm)
    assert found.config.vm_config.HasField("environment_variables") is is_left


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("UNSPECIFIED_POLICY", "UNSPECIFIED_POLICY"),
        ("IfNotPresent", "IfNotPresent"),
        ("always", "UNSPECIFIED_POLICY"),
    ],
)
def test_an_unknown_policy_is_unspecified(said: str, meant: str) -> None:
    modules = Modules()
    config = plugin("https://r.test/x", environment={"ISTIO_META_WASM_IMAGE_PULL_POLICY": said})
    converted(extension("the filter", http_filter(config)), http_wasm_pb2.Wasm, modules)
    assert modules.wanted[0].policy == meant


@pytest.mark.parametrize(("said", "meant"), [("nil", ""), ("", ""), ("AB" * 32, "ab" * 32)])
def test_nil_means_no_checksum(said: str, meant: str) -> None:
    modules = Modules()
    config = plugin("https://r.test/x", sha256=said)
    converted(extension("the filter", http_filter(config)), http_wasm_pb2.Wasm, modules)
    assert modules.wanted[0].checksum == meant


@pytest.mark.parametrize(("said_s", "meant_s"), [(None, 5.0), (0.0, 0.0), (1.5, 1.5)])
def test_the_time_limit_is_the_sources(said_s: float | None, meant_s: float) -> None:
    modules = Modules()
    config = plugin("https://r.test/x", timeout_s=said_s)
    converted(extension("the filter", http_filter(config)), http_wasm_pb2.Wasm, modules)
    assert modules.timeouts_s == [meant_s]


@pytest.mark.parametrize(
    "message",
    [
        http_filter(plugin(local="/some/file")),
        network_filter(plugin(local="/some/file")),
        as_struct(http_filter(plugin(local="/some/file"))),
        fault_pb2.HTTPFault(),
        as_struct(fault_pb2.HTTPFault()),
        typed_struct_pb2.TypedStruct(),
        struct_pb2.Struct(),
    ],
    ids=[
        "local",
        "local network",
        "local struct",
        "no Wasm",
        "struct of no Wasm",
        "empty struct",
        "no filter",
    ],
)
def test_what_loads_nothing_from_afar_stays_as_it_was(message: Any) -> None:
    assert convert(extension("the filter", message), Modules())[:2] == (None, "no_remote_load")


def unreadable_struct(**members: Any) -> Any:
    struct = typed_struct_pb2.TypedStruct(
        type_url="type.googleapis.com/" + http_wasm_pb2.Wasm.DESCRIPTOR.full_name
    )
    struct.value.update(members)
    return struct


@pytest.mark.parametrize(
    "resource",
    [
        None,
        b"\xff\xff",
        any_pb2.Any(type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster").SerializeToString(),
        any_pb2.Any(type_url=ECDS, value=b"\xff").SerializeToString(),
        extension("the filter", None),
        extension("the filter", http_filter(plugin(no_code=True))),
        extension("the filter", unreadable_struct(unknown_field=1)),
        extension("the filter", unreadable_struct(config=5)),
        extension(
            "the filter",
            unreadable_struct(config={"configuration": {"@type": "type.googleapis.com/no.Such"}}),
        ),
        extension("the filter", unreadable_struct(config={"configuration": {"@type": 1}})),
        extension(
            "the filter",
            unreadable_struct(config={"configuration": {"@type": f"{TYPES}google.protobuf.StringValue"}}),
        ),
        extension("the filter", unreadable_struct(config={"vm_config": {"code": {}}})),
    ],
    ids=[
        "none",
        "no Any",
        "other type",
        "no config",
        "no typed_config",
        "no code",
        "unknown",
        "type",
        "any",
        "any of no type",
        "any without value",
        "empty",
    ],
)
def test_what_cannot_be_understood_is_rejected(resource: bytes | None) -> None:
    with pytest.raises(RejectedError):
        convert(resource, Modules())


@FILTERS
@pytest.mark.parametrize(
    ("more", "is_open"),
    [
        ({}, False),
        ({"fail_open": True}, True),
        ({"failure_policy": wasm_pb2.FAIL_OPEN}, True),
        ({"failure_policy": wasm_pb2.FAIL_CLOSED, "fail_open": True}, False),
        ({"failure_policy": wasm_pb2.FAIL_RELOAD, "fail_open": True}, False),
        ({"failure_policy": wasm_pb2.FAIL_OPEN, "fail_open": False}, True),
    ],
)
def test_without_its_module_a_filter_allows_or_denies_all(
    make: Callable[[Any], Any], kind: Any, more: dict[str, Any], is_open: bool
) -> None:
    result = convert(extension("the filter", make(plugin("https://r.test/x", **more))), Modules("gone"))
    assert result.result == "fetch_failure"
    assert result.resource is not None
    rbac: Any = http_rbac_pb2.RBAC() if kind is http_wasm_pb2.Wasm else network_rbac_pb2.RBAC()
    config = opened(result.resource)
    assert config.name == "the filter"
    assert config.typed_config.Unpack(rbac)
    assert rbac.HasField("rules") is not is_open
    assert not rbac.rules.policies
    prefix = rbac.rules_stat_prefix if kind is http_wasm_pb2.Wasm else rbac.stat_prefix
    assert prefix == ("wasm-default-allow" if is_open else "wasm-default-deny")


def test_a_missing_source_and_an_empty_secret_make_the_fallback_without_a_fetch() -> None:
    modules = Modules()
    assert convert(extension("f", http_filter(plugin(None))), modules).result == "miss_remote_fetch_hint"
    empty = plugin("oci://r.test/a", environment={"ISTIO_META_WASM_IMAGE_PULL_SECRET": ""})
    assert convert(extension("f", http_filter(empty)), modules).result == "fetch_failure"
    assert modules.wanted == []


# The worker: whole responses.


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        site.pages["/x.wasm"] = page(ONE)
        yield site


def work(tmp_path: Path, variant: str, body: bytes, limit_s: float = 20.0) -> RewriteAnswer:
    request = RewriteRequest(
        variant=variant,  # type: ignore[arg-type]
        body=body,
        options=WasmOptions(directory=str(tmp_path / "data"), request_attempts=1),
        limit_s=limit_s,
    )
    return rewrite_answer(rewrite(encode(request)))


def sent(variant: str, *resources: tuple[str, Any]) -> Any:
    """Return an ECDS response with these filters by name."""
    message = response(variant, ECDS, "n1", "v1", **dict.fromkeys((name for name, _ in resources), b""))
    for entry, (name, content) in zip(message.resources, resources, strict=True):
        (entry if variant == "sotw" else entry.resource).ParseFromString(extension(name, content))
    return message


def results(answer: RewriteAnswer) -> dict[str, float]:
    found: dict[str, float] = {}
    for count in answer.counts:
        if count.name == "wasm_config_conversion_count":
            found[count.labels["result"]] = found.get(count.labels["result"], 0.0) + count.value
    return found


@pytest.mark.parametrize("variant", ["sotw", "delta"])
def test_a_response_is_rewritten_in_place(tmp_path: Path, variant: str, site: Site) -> None:
    before = sent(
        variant,
        ("good", http_filter(plugin(f"{site.url}/x.wasm"))),
        ("other", fault_pb2.HTTPFault(max_active_faults=wrappers_pb2.UInt32Value(value=7))),
        ("bad", http_filter(plugin(f"{site.url}/gone", fail_open=True))),
    )
    if variant == "delta":
        before.removed_resources.append("removed")
        before.resources[0].aliases.append("alias")
    answer = work(tmp_path, variant, before.SerializeToString())
    after = type(before).FromString(answer.body)
    inside = [
        opened((one if variant == "sotw" else one.resource).SerializeToString()) for one in after.resources
    ]
    assert [one.name for one in inside] == ["good", "other", "bad"]
    good = http_wasm_pb2.Wasm()
    assert inside[0].typed_config.Unpack(good)
    assert Path(good.config.vm_config.code.local.filename).read_bytes() == ONE
    assert after.resources[1] == before.resources[1]
    assert inside[2].typed_config.Is(http_rbac_pb2.RBAC.DESCRIPTOR)
    del before.resources[:], after.resources[:]
    assert after == before
    assert answer.rejected == ""
    assert {name: each.file for name, each in answer.good.items()} == {
        "good": good.config.vm_config.code.local.filename
    }
    assert answer.cache_entries == 1
    assert results(answer) == {"success": 1, "no_remote_load": 1, "fetch_failure": 1}


def test_of_a_delta_entry_the_content_alone_is_replaced(tmp_path: Path, site: Site) -> None:
    before = sent("delta", ("good", http_filter(plugin(f"{site.url}/x.wasm"))))
    before.resources[0].aliases.append("alias")
    before.resources[0].ttl.FromSeconds(5)
    after = discovery_pb2.DeltaDiscoveryResponse.FromString(
        work(tmp_path, "delta", before.SerializeToString()).body
    )
    assert after.resources[0].resource != before.resources[0].resource
    for one in (before, after):
        one.resources[0].ClearField("resource")
    assert after == before


@pytest.mark.parametrize("variant", ["sotw", "delta"])
def test_one_bad_resource_rejects_the_response(tmp_path: Path, variant: str, site: Site) -> None:
    before = sent(variant, ("good", http_filter(plugin(f"{site.url}/x.wasm"))), ("bad", None))
    answer = work(tmp_path, variant, before.SerializeToString())
    assert answer.body == b""
    assert answer.rejected == "extension config 'bad' has no typed_config"
    assert results(answer) == {"success": 1, "unmarshal_failure": 1}


def test_several_bad_resources_are_all_named_in_the_references_form(tmp_path: Path) -> None:
    answer = work(tmp_path, "sotw", sent("sotw", ("a", None), ("b", None)).SerializeToString())
    assert answer.rejected == (
        "2 errors occurred:\n\t* extension config 'a' has no typed_config\n"
        "\t* extension config 'b' has no typed_config\n\n"
    )


def test_a_delta_entry_without_content_is_rejected(tmp_path: Path) -> None:
    before = discovery_pb2.DeltaDiscoveryResponse(type_url=ECDS, resources=[discovery_pb2.Resource(name="x")])
    assert work(tmp_path, "delta", before.SerializeToString()).rejected == "an ECDS resource without content"


def test_a_module_of_many_filters_is_fetched_once_and_others_side_by_side(tmp_path: Path, site: Site) -> None:
    filters = [(f"f{number}", http_filter(plugin(f"{site.url}/x.wasm"))) for number in range(20)]
    answer = work(tmp_path, "sotw", sent("sotw", *filters).SerializeToString())
    assert results(answer) == {"success": 20}
    assert site.count("/x.wasm") == 1


def test_the_answer_is_there_within_the_limit_whatever_the_filter_allows(tmp_path: Path, site: Site) -> None:
    site.pages["/x.wasm"] = silent()
    before = sent("sotw", ("f", http_filter(plugin(f"{site.url}/x.wasm", timeout_s=3600))))
    answer = work(tmp_path, "sotw", before.SerializeToString(), limit_s=0.3)
    assert results(answer) == {"fetch_failure": 1}


def test_every_bucket_of_the_duration_is_counted(tmp_path: Path) -> None:
    answer = work(tmp_path, "sotw", sent("sotw", ("f", fault_pb2.HTTPFault())).SerializeToString())
    buckets = [count.labels["le"] for count in answer.counts if count.name.endswith("_bucket")]
    assert buckets == [str(1 << power) for power in range(15)] + ["+Inf"]
    assert [count.value for count in answer.counts if count.name.endswith("_count") and not count.labels] == [
        1
    ]


def test_the_purge_worker_says_what_is_left(tmp_path: Path, site: Site) -> None:
    work(tmp_path, "sotw", sent("sotw", ("f", http_filter(plugin(f"{site.url}/x.wasm")))).SerializeToString())
    assert purged(tmp_path / "data") == 1
    assert purged(tmp_path / "data", module_expiry_s=-1.0) == 0
    assert purged(tmp_path / "none") == 0


def purged(directory: Path, **options: Any) -> int:
    request = PurgeRequest(options=WasmOptions(directory=str(directory), **options), in_use=[])
    return purge_answer(purge(encode(request))).cache_entries


# The scan that decides whether a worker is needed.


def scanned(variant: str, message: Any) -> bool:
    data = message.SerializeToString()
    return needs_rewriting(read_sotw_response(data) if variant == "sotw" else read_delta_response(data))


@pytest.mark.parametrize("variant", ["sotw", "delta"])
def test_only_wasm_and_what_is_unclear_goes_to_the_worker(variant: str) -> None:
    plain = ("plain", fault_pb2.HTTPFault())
    assert not scanned(variant, sent(variant))
    assert not scanned(variant, sent(variant, plain))
    for content in (
        http_filter(plugin()),
        network_filter(plugin()),
        http_filter(plugin(local="/x")),
        as_struct(fault_pb2.HTTPFault()),
        None,
    ):
        assert scanned(variant, sent(variant, plain, ("f", content)))


def test_two_configs_in_one_field_are_unclear() -> None:
    config = extension_pb2.TypedExtensionConfig(name="x")
    config.typed_config.Pack(fault_pb2.HTTPFault())
    twice = config.SerializeToString() + bytes_field(2, b"")
    message = discovery_pb2.DiscoveryResponse(type_url=ECDS)
    message.resources.add(type_url=ECDS, value=twice)
    assert scanned("sotw", message)


CONTENT = st.sampled_from(
    [
        http_filter(plugin()),
        http_filter(plugin(local="/x")),
        network_filter(plugin(no_code=True)),
        fault_pb2.HTTPFault(),
        as_struct(http_filter(plugin())),
        as_struct(fault_pb2.HTTPFault()),
        base_pb2.Node(),
        None,
    ]
)


@settings(max_examples=300)
@given(
    st.sampled_from(["sotw", "delta"]),
    st.lists(
        st.tuples(st.text("ab", min_size=1, max_size=3), CONTENT), max_size=4, unique_by=lambda one: one[0]
    ),
    st.one_of(st.none(), st.tuples(st.integers(0, 5000), st.integers(0, 255))),
)
def test_what_is_not_sent_to_the_worker_would_have_come_back_unchanged(
    variant: str, filters: list[tuple[str, Any]], damage: tuple[int, int] | None
) -> None:
    body = bytearray(sent(variant, *filters).SerializeToString())
    if damage is not None and body:
        body[damage[0] % len(body)] = damage[1]
    try:
        read: Any = (read_sotw_response if variant == "sotw" else read_delta_response)(bytes(body))
    except ValueError:
        return
    if read.type_url != ECDS or needs_rewriting(read):
        return
    for start, end in read.spans.bounds(2):
        entry = bytes(body[start:end])
        with suppress(RejectedError, DecodeError):  # a text that is no UTF-8: Envoy will say so
            is_sotw = variant == "sotw"
            inner = None if is_sotw else discovery_pb2.Resource.FromString(entry).resource
            resource = entry if inner is None else inner.SerializeToString()
            assert convert(resource, Modules()).resource is None
