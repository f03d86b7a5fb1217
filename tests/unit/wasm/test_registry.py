"""Images from a registry: forms, tokens, secrets, and registries that lie."""

import base64
import gzip
import json
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.authority import Authority
from pilot_agent.http import Deadline, resolved
from pilot_agent.wasm.cache import Wanted
from pilot_agent.wasm.credentials import Credentials, from_docker_config, from_secret
from pilot_agent.wasm.errors import FetchError, WasmError
from pilot_agent.wasm.image import (
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_LAYER,
    OCI_MANIFEST,
    WASM_LAYER,
    module_layer,
    read_manifest,
)
from pilot_agent.wasm.image_name import DOCKER_HUB, is_latest, module_name, parse_image
from tests.support.oci_registry import OciRegistry, digest_of, packed
from tests.support.site import Site, answer, endless, page, redirect, silent, truncated
from tests.support.wasm import CacheRig, module

ONE = module("one")


@pytest.fixture
def registry() -> Iterator[OciRegistry]:
    with OciRegistry() as registry:
        yield registry


@pytest.fixture
def rig(tmp_path: Path) -> CacheRig:
    return CacheRig(tmp_path, {"max_binary_bytes": 4096})


def get(rig: CacheRig, url: str, timeout_s: float = 20.0, **more: Any) -> bytes:
    try:
        return rig.cache.get(Wanted(url=url, **more), Deadline(timeout_s)).read_bytes()
    finally:
        assert rig.left_over() == []


@pytest.mark.parametrize("form", ["docker", "compat", "artifact"])
def test_every_known_form_of_an_image_gives_its_module(
    rig: CacheRig, registry: OciRegistry, form: str
) -> None:
    digest = registry.push("some/where", "v1", form, ONE)
    assert get(rig, f"oci://{registry.authority}/some/where:v1") == ONE
    name = f"oci://{registry.authority}/some/where"
    assert (rig.directory / sha256(name.encode()).hexdigest() / f"{digest[7:]}.wasm").is_file()


@pytest.mark.parametrize(
    "files", [{"plugin_wasm": ONE}, {"a__b__plugin_wasm": ONE}, {"README": b"x" * 2000, "plugin_wasm": ONE}]
)
def test_the_module_is_found_anywhere_in_the_layer(
    rig: CacheRig, registry: OciRegistry, files: dict[str, bytes]
) -> None:
    layers = [
        registry.blob("a", OCI_LAYER, packed(other=b"x")),
        registry.blob("a", OCI_LAYER, packed(**files)),
    ]
    registry.manifest("a", "v1", OCI_MANIFEST, layers=layers)
    with_repository = f"oci://{registry.authority}/a"
    registry.pages |= {key.replace("/v2/a/", "/v2/aa/"): value for key, value in registry.pages.items()}
    assert get(rig, f"{with_repository}a:v1") == ONE


@pytest.mark.parametrize(
    ("media_type", "layer_types", "said"),
    [
        (DOCKER_MANIFEST, [], "no layers"),
        (OCI_MANIFEST, [], "no layers"),
        (DOCKER_MANIFEST, [OCI_LAYER], "invalid media type"),
        (OCI_MANIFEST, [DOCKER_LAYER], "no known form"),
        (OCI_MANIFEST, [WASM_LAYER], "no known form"),
        (OCI_MANIFEST, [WASM_LAYER] * 3, "no known form"),
        (OCI_MANIFEST, ["a", "b"], "invalid media types"),
    ],
)
def test_an_image_of_another_form_is_refused(
    rig: CacheRig, registry: OciRegistry, media_type: str, layer_types: list[str], said: str
) -> None:
    layers = [registry.blob("a/b", kind, packed(plugin_wasm=ONE)) for kind in layer_types]
    registry.manifest("a/b", "v1", media_type, layers=layers)
    with pytest.raises(WasmError, match=said):
        get(rig, f"oci://{registry.authority}/a/b:v1")
    assert rig.fetches == {"fetch_failure": 1}


@pytest.mark.parametrize(
    "layer",
    [
        packed(other=ONE),
        gzip.compress(b"no tar"),
        b"no gzip",
        packed(plugin_wasm=ONE)[:-30],
        packed(plugin_wasm=b"x"),
    ],
    ids=["another file", "no tar", "no gzip", "cut off", "no module"],
)
def test_a_layer_without_the_module_is_refused(rig: CacheRig, registry: OciRegistry, layer: bytes) -> None:
    registry.manifest("a/b", "v1", OCI_MANIFEST, layers=[registry.blob("a/b", OCI_LAYER, layer)])
    with pytest.raises(WasmError):
        get(rig, f"oci://{registry.authority}/a/b:v1")
    assert rig.cache.count() == 0


def test_an_index_leads_to_the_image_for_amd64_by_tag_and_by_its_own_digest(
    rig: CacheRig, registry: OciRegistry
) -> None:
    image = registry.push("a/b", "only-amd64", "compat", ONE)
    other = registry.push("a/b", "only-arm64", "compat", module("arm"))
    index = registry.index("a/b", "v1", arm64=other, amd64=image)
    name = f"oci://{registry.authority}/a/b"
    assert get(rig, f"{name}:v1") == ONE
    assert get(rig, f"{name}@{index}") == ONE
    assert get(rig, f"{name}:v1", checksum=image[7:]) == ONE
    assert get(rig, f"{name}:v1", checksum=index[7:]) == ONE
    registry.index("a/b", "arm-only", arm64=other)
    with pytest.raises(WasmError, match="no image for linux/amd64"):
        get(rig, f"{name}:arm-only")
    registry.index("a/b", "nested", amd64=index)
    with pytest.raises(WasmError, match="leads to another index"):
        get(rig, f"{name}:nested")


def test_a_missing_image_is_a_manifest_failure(rig: CacheRig, registry: OciRegistry) -> None:
    with pytest.raises(WasmError, match="status 404: not here"):
        get(rig, f"oci://{registry.authority}/a/b:v1")
    assert rig.fetches == {"manifest_failure": 1}


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"garbage",
        b"[]",
        b"{}",
        b'{"schemaVersion":1}',
        b'{"schemaVersion":2}',
        b'{"schemaVersion":2,"layers":3}',
        b'{"schemaVersion":2,"layers":[{"digest":"sha256:x","size":5,"mediaType":"'
        + OCI_LAYER.encode()
        + b'"}]}',
        b'{"schemaVersion":2,"layers":[{"digest":"md5:abc","size":5,"mediaType":"'
        + OCI_LAYER.encode()
        + b'"}]}',
        b'{"schemaVersion":2,"layers":[{"size":-5,"mediaType":"' + OCI_LAYER.encode() + b'"}]}',
        b'{"schemaVersion":2,"manifests":[{"digest":"../../../etc"}]}',
        b"[" * 100_000,
        b'{"schemaVersion":2,"layers":' + b"[" * 100_000,
        b"\xff\xfe" * 100,
        b'{"schemaVersion":99999999999999999999999999}',
    ],
    ids=lambda data: repr(data[:40]),
)
def test_a_manifest_that_makes_no_sense_is_refused(
    rig: CacheRig, registry: OciRegistry, manifest: bytes
) -> None:
    registry.pages["/v2/a/b/manifests/v1"] = page(manifest)
    with pytest.raises(WasmError):
        get(rig, f"oci://{registry.authority}/a/b:v1")
    assert rig.fetches == {"manifest_failure": 1}


@settings(max_examples=300)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["schemaVersion", "mediaType", "layers", "manifests", "digest", "size", "platform", "os"]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=20,
    )
)
def test_whatever_a_registry_says_is_a_manifest_or_an_error_of_ours(document: Any) -> None:
    if isinstance(document, dict):
        document = {"schemaVersion": 2, "layers": [], **document}
    with suppress(FetchError):
        layer, _ = module_layer(read_manifest(json.dumps(document).encode(), "application/json"))
        assert len(layer.sha256) == 64


def test_a_manifest_that_is_not_what_its_digest_says_is_refused(rig: CacheRig, registry: OciRegistry) -> None:
    digest = registry.push("a/b", "v1", "compat", ONE)
    registry.push("a/b", "evil", "compat", module("evil"))
    registry.pages[f"/v2/a/b/manifests/{digest}"] = registry.pages["/v2/a/b/manifests/evil"]
    with pytest.raises(WasmError, match="which does not match"):
        get(rig, f"oci://{registry.authority}/a/b@{digest}")
    assert rig.fetches == {"checksum_mismatched": 1}


def test_a_layer_that_is_not_what_its_digest_says_is_refused(rig: CacheRig, registry: OciRegistry) -> None:
    registry.push("a/b", "v1", "artifact", ONE)
    registry.pages[f"/v2/a/b/blobs/{digest_of(ONE)}"] = page(module("eno"))
    with pytest.raises(WasmError, match=r"layer has digest .*, which does not match"):
        get(rig, f"oci://{registry.authority}/a/b:v1")
    assert rig.fetches == {"checksum_mismatched": 1}


@pytest.mark.parametrize("size", [0, -1, len(ONE) - 1, len(ONE) + 1, 1 << 40], ids=str)
def test_a_layer_of_another_size_than_the_manifest_says_is_refused(
    rig: CacheRig, registry: OciRegistry, size: int
) -> None:
    layer = registry.blob("a/b", WASM_LAYER, ONE) | {"size": size}
    registry.manifest("a/b", "v1", OCI_MANIFEST, layers=[layer, registry.blob("a/b", "x", b"{}")])
    with pytest.raises(WasmError, match="bytes"):
        get(rig, f"oci://{registry.authority}/a/b:v1")
    assert rig.cache.count() == 0


def test_a_layer_without_end_or_cut_off_or_silent_is_refused(tmp_path: Path, registry: OciRegistry) -> None:
    registry.push("a/b", "v1", "artifact", ONE)
    blob = f"/v2/a/b/blobs/{digest_of(ONE)}"
    for number, (lie, limit_s) in enumerate(((endless(), 20), (truncated(ONE[:5], 9), 20), (silent(), 0.3))):
        rig = CacheRig(tmp_path / str(number))
        registry.pages[blob] = lie
        with pytest.raises(WasmError):
            get(rig, f"oci://{registry.authority}/a/b:v1", limit_s)
        assert rig.fetches == {"download_failure": 1}


def test_a_manifest_without_end_is_not_read_to_it(rig: CacheRig, registry: OciRegistry) -> None:
    registry.pages["/v2/a/b/manifests/v1"] = endless(b" " * 65536)
    with pytest.raises(WasmError, match="exceeds the limit of 4194304 bytes"):
        get(rig, f"oci://{registry.authority}/a/b:v1")


def test_a_layer_that_unpacks_to_too_much_ends_at_the_limit(rig: CacheRig, registry: OciRegistry) -> None:
    for files, said in (
        ({"plugin_wasm": ONE + bytes(5000)}, "a module of .* exceeds the limit"),
        ({"first": bytes(100_000), "plugin_wasm": ONE}, "unpacks to more than"),
    ):
        layers = [registry.blob("a/b", OCI_LAYER, packed(**files))]
        registry.manifest("a/b", "v1", OCI_MANIFEST, layers=layers)
        with pytest.raises(WasmError, match=said):
            get(rig, f"oci://{registry.authority}/a/b:v1")


def test_a_registry_that_is_busy_is_asked_again(rig: CacheRig, registry: OciRegistry) -> None:
    registry.push("a/b", "v1", "compat", ONE)
    good, left = registry.pages["/v2/a/b/manifests/v1"], [2]

    def busy(asked: Any) -> Any:
        left[0] -= 1
        return answer(b"", 503) if left[0] >= 0 else good(asked)

    registry.pages["/v2/a/b/manifests/v1"] = busy
    assert get(rig, f"oci://{registry.authority}/a/b:v1") == ONE
    assert rig.slept_s == [1.0, 3.0]


def secret(registry: str, user: str = "me", password: str = "pass:word") -> str:
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    return json.dumps({"auths": {registry: {"auth": auth}}})


@pytest.fixture
def asking() -> Iterator[OciRegistry]:
    """A registry whose token realm is its own, under a name that a realm may have."""
    with OciRegistry(users={"me": "pass:word"}) as registry:
        registry.realm = f"http://registry.test:{registry.port}/token?x=1"
        registry.push("a/b", "v1", "compat", ONE)
        yield registry


def test_a_token_is_asked_for_with_the_pull_secret(tmp_path: Path, asking: OciRegistry) -> None:
    authority = f"registry.test:{asking.port}"
    rig = CacheRig(tmp_path, {"insecure_registries": (authority,)})
    assert get(rig, f"oci://{authority}/a/b:v1", secret=secret(authority)) == ONE
    (asked,) = asking.tokens_given
    assert asked.query == {"x": ["1"], "service": ["test service"], "scope": ["repository:a/b:pull"]}


def test_credentials_do_not_travel_in_plain_text_unless_it_is_allowed(
    tmp_path: Path, asking: OciRegistry
) -> None:
    authority = f"registry.test:{asking.port}"
    rig = CacheRig(tmp_path)
    with pytest.raises(WasmError, match=r"token for .*: status 401"):
        get(rig, f"oci://{authority}/a/b:v1", secret=secret(authority))
    assert not any("authorization" in asked.headers for asked in asking.asked)


@pytest.mark.parametrize("said", [secret("elsewhere.test"), json.dumps({"auths": {}}), "{}"])
def test_without_an_entry_for_the_registry_one_is_anonymous(
    tmp_path: Path, asking: OciRegistry, said: str
) -> None:
    authority = f"registry.test:{asking.port}"
    rig = CacheRig(tmp_path, {"insecure_registries": ("*",)})
    with pytest.raises(WasmError, match="status 401"):
        get(rig, f"oci://{authority}/a/b:v1", secret=said)
    asking.users = {}
    assert get(rig, f"oci://{authority}/a/b:v1", secret=said) == ONE


def test_docker_s_own_file_counts_where_there_is_no_secret(tmp_path: Path, asking: OciRegistry) -> None:
    authority = f"registry.test:{asking.port}"
    config = tmp_path / "config.json"
    config.write_text(secret(authority))
    rig = CacheRig(tmp_path / "data", {"insecure_registries": ("*",), "docker_config_path": str(config)})
    assert get(rig, f"oci://{authority}/a/b:v1") == ONE


def test_a_registry_that_wants_basic_gets_it(tmp_path: Path) -> None:
    with OciRegistry(users={"me": "pass:word"}, basic=True) as registry:
        registry.push("a/b", "v1", "compat", ONE)
        rig = CacheRig(tmp_path)
        url = f"oci://{registry.authority}/a/b:v1"
        with pytest.raises(WasmError, match=r"asks for credentials \(basic\) that are not there"):
            get(rig, url, secret=secret("elsewhere.test"))
        assert get(rig, url, secret=secret(registry.authority)) == ONE


@pytest.mark.parametrize(
    "realm", ["http://127.0.0.1:1/token", "http://localhost/token", "http://169.254.169.254/"]
)
def test_a_realm_inside_is_not_gone_to(tmp_path: Path, asking: OciRegistry, realm: str) -> None:
    asking.realm = realm
    with pytest.raises(WasmError, match="rejected unsafe bearer realm"):
        get(CacheRig(tmp_path), f"oci://registry.test:{asking.port}/a/b:v1")


def test_a_realm_inside_that_is_written_so_that_it_looks_like_a_title_is_not_gone_to(
    tmp_path: Path, asking: OciRegistry
) -> None:
    with Site() as inside:
        asking.challenge = f'Bearer x="a, Basic b=", realm="http\\://127.0.0.1:{inside.port}/token"'
        with pytest.raises(WasmError, match=r"rejected unsafe bearer realm 'http://127\.0"):
            get(CacheRig(tmp_path), f"oci://registry.test:{asking.port}/a/b:v1")
        assert inside.asked == []


def test_a_realm_whose_name_leads_to_metadata_is_not_gone_to(tmp_path: Path, asking: OciRegistry) -> None:
    asking.realm = "http://0xa9fea9fe.nip.invalid/token"
    rig = CacheRig(tmp_path)
    rig.web._guard._resolve = lambda host, port: resolved(
        "169.254.169.254" if host.endswith(".invalid") else "127.0.0.1", port
    )
    with pytest.raises(WasmError, match=r"169.254.169.254: this address is blocked"):
        get(rig, f"oci://registry.test:{asking.port}/a/b:v1")


@pytest.mark.parametrize(
    "token",
    [b"", b"garbage", b"{}", b'{"token":""}', b'{"token":3}', b'{"token":"a\\r\\nEvil: 1"}', b"[" * 100_000],
)
def test_a_token_service_that_talks_nonsense_is_refused(
    tmp_path: Path, asking: OciRegistry, token: bytes
) -> None:
    with Site() as service:
        service.pages["/token"] = page(token)
        asking.realm = f"http://registry.test:{service.port}/token"
        with pytest.raises(WasmError, match="token"):
            get(CacheRig(tmp_path), f"oci://registry.test:{asking.port}/a/b:v1")


def test_a_layer_elsewhere_does_not_get_the_token(tmp_path: Path, asking: OciRegistry) -> None:
    authority = f"registry.test:{asking.port}"
    with Site() as store:
        (blob,) = (path for path in asking.pages if "/blobs/" in path)
        store.pages["/blob"] = asking.pages[blob]
        asking.pages[blob] = redirect(f"{store.url}/blob")
        rig = CacheRig(tmp_path, {"insecure_registries": (authority,)})
        assert get(rig, f"oci://{authority}/a/b:v1", secret=secret(authority)) == ONE
        assert "authorization" not in store.asked[0].headers


def test_over_tls_credentials_are_sent_and_the_certificate_is_verified(tmp_path: Path) -> None:
    authority_of_site = Authority()
    roots = tmp_path / "roots.pem"
    roots.write_text(authority_of_site.root_pem)
    pair = authority_of_site.issue("registry.test")
    with OciRegistry(tls=pair, users={"me": "pass:word"}) as registry:
        name = f"registry.test:{registry.port}"
        registry.realm = f"https://{name}/token"
        registry.push("a/b", "v1", "docker", ONE)
        rig = CacheRig(tmp_path / "data", {"roots_path": str(roots)})
        assert get(rig, f"oci://{name}/a/b:v1", secret=secret(name)) == ONE
        stranger = CacheRig(tmp_path / "other", {"roots_path": str(roots)}, names=())
        with pytest.raises(WasmError, match="certificate"):
            get(stranger, f"oci://{registry.authority}/a/b:v1", secret=secret(name))
        insecure = CacheRig(tmp_path / "third", {"insecure_registries": (name,)})
        assert get(insecure, f"oci://{name}/a/b:v1", secret=secret(name)) == ONE


@pytest.mark.parametrize(
    "text", ["null", "[]", "3", "", "{", '{"auths":[]}', '{"auths":{"r.test":{"auth":"%%"}}}', "[" * 100_000]
)
def test_a_secret_that_is_none_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(FetchError, match="secret") as caught:
        from_secret(text, "r.test")
    assert "%%" not in str(caught.value)


def test_entries_of_a_secret() -> None:
    assert from_secret(secret("https://index.docker.io/v1/"), DOCKER_HUB).username == "me"
    named = from_secret('{"auths":{"r.test":{"username":"u","password":"p"}}}', "r.test")
    assert (named.username, named.password) == ("u", "p")
    assert named.basic == "Basic " + base64.b64encode(b"u:p").decode()
    assert from_secret('{"auths":{"r.test":{"registrytoken":"t"}}}', "r.test").registry_token == "t"
    identity = from_secret('{"auths":{"r.test":{"identitytoken":"t"}}}', "r.test")
    assert (identity.username, identity.password) == ("<token>", "t")
    assert "hidden" not in repr(Credentials(username="u", password="hidden"))


def test_a_docker_file_that_is_not_there_or_no_good_is_anonymous(tmp_path: Path) -> None:
    assert from_docker_config("", "r.test").is_anonymous
    assert from_docker_config(str(tmp_path / "none"), "r.test").is_anonymous
    (tmp_path / "bad").write_bytes(b"\xff{")
    assert from_docker_config(str(tmp_path / "bad"), "r.test").is_anonymous


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("oci://docker.io/x", ("index.docker.io", "library/x", "latest", "")),
        ("oci://docker.io/me/x:1", ("index.docker.io", "me/x", "1", "")),
        ("oci://me/x", ("index.docker.io", "me/x", "latest", "")),
        ("oci://xx", ("index.docker.io", "library/xx", "latest", "")),
        ("oci://gcr.io/a/b/c:v1.2-3", ("gcr.io", "a/b/c", "v1.2-3", "")),
        ("oci://localhost/ab", ("localhost", "ab", "latest", "")),
        ("oci://localhost:5000/ab:t", ("localhost:5000", "ab", "t", "")),
        (f"oci://r.test/a/b:t@sha256:{'A' * 64}", ("r.test", "a/b", "", "a" * 64)),
        ("oci://[::1]:5000/a/b", ("[::1]:5000", "a/b", "latest", "")),
    ],
)
def test_an_images_name_is_read_as_docker_reads_it(url: str, expected: tuple[str, ...]) -> None:
    image = parse_image(url)
    assert (image.registry, image.repository, image.tag, image.digest) == expected
    assert module_name(url) == f"oci://{expected[0]}/{expected[1]}"


@pytest.mark.parametrize(
    "url",
    [
        "oci://",
        "oci:///",
        "oci://r.test/",
        "oci://r.test/A",
        "oci://r.test/a/../b",
        "oci://r.test/a//b",
        "oci://r.test/a@sha256:12",
        "oci://r.test/a b",
        "oci://r.test/aa:bad tag",
        "oci://r.test:port/aa",
        "oci://user@r.test/aa",
        "oci://r.test/aa\r\nEvil: 1",
    ],
)
def test_what_names_no_image_is_refused(url: str) -> None:
    with pytest.raises(FetchError, match="could not parse"):
        parse_image(url)


@given(st.text(max_size=60))
def test_any_text_is_an_image_or_an_error_of_ours(text: str) -> None:
    try:
        image = parse_image(f"oci://{text}")
    except FetchError:
        return
    assert all(part.isascii() and part.isprintable() and " " not in part for part in image)


def test_latest_is_looked_at_in_images_alone() -> None:
    assert is_latest("oci://r.test/a:latest")
    assert not is_latest("oci://r.test/a")
    assert not is_latest("https://r.test/a:latest")
