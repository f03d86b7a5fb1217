"""Taking modules out of tar and gzip, also of those that nobody makes in good faith."""

import gzip
import io
import tarfile
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pilot_agent.wasm.errors import FetchError
from pilot_agent.wasm.tar_stream import BLOCK, TarError, TarStream
from pilot_agent.wasm.unpack import TooLargeError, is_module, plugin_of_layer, unwrapped
from tests.support.oci_registry import packed, tar_of
from tests.support.wasm import module

ONE = module("one")


def files_in(data: bytes) -> dict[str, bytes]:
    tar, found = TarStream(io.BytesIO(data)), {}
    while (entry := tar.next_file()) is not None:
        found[entry.name] = b"".join(iter(lambda: tar.read(100), b""))
    return found


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@given(
    st.dictionaries(
        st.text("abcdé/", min_size=1, max_size=90).filter(lambda t: t.strip("/") == t),
        st.binary(max_size=2000),
        max_size=4,
    )
)
def test_what_tarfile_writes_is_read(form: int, files: dict[str, bytes]) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        tar.addfile(directory("some/folder"))
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert files_in(out.getvalue()) == files


def directory(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read(form: int) -> None:
    name = "d/" * 200 + "plugin.wasm"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        info = tarfile.TarInfo(name)
        info.size = len(ONE)
        tar.addfile(info, io.BytesIO(ONE))
    assert files_in(out.getvalue()) == {name: ONE}


def header(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "data",
    [
        header(tarfile.XHDTYPE, 1 << 40),
        header(tarfile.GNUTYPE_LONGNAME, 1 << 33),
        header(tarfile.XHDTYPE, BLOCK) + b"99999 path=x\n".ljust(BLOCK, b"\0"),
        header(tarfile.XHDTYPE, BLOCK) + b"13 size=-12\n\n".ljust(BLOCK, b"\0"),
        (header(tarfile.XHDTYPE, 11) + b"11 path=ab\n".ljust(BLOCK, b"\0")) * 40,
        header(tarfile.GNUTYPE_SPARSE, 10),
        b"x" * BLOCK,
        header(tarfile.REGTYPE, 1 << 50),
        header(tarfile.DIRTYPE, 1 << 50),
    ],
    ids=[
        "huge pax",
        "huge name",
        "bad pax length",
        "negative size",
        "pax without end",
        "sparse",
        "noise",
        "cut off",
        "folder",
    ],
)
def test_a_tar_that_nobody_makes_ends_in_an_error_and_not_in_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        with suppress(TarError, EOFError):
            files_in(data)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=3000))
@example(tar_of(plugin_wasm=ONE)[: BLOCK + 10])
def test_any_bytes_are_a_tar_or_an_error_of_ours(data: bytes) -> None:
    with suppress(TarError, EOFError):
        files_in(data)


@given(st.binary(max_size=200), st.integers(0, 2000), st.integers(0, 255))
def test_any_damage_to_a_layer_is_an_error_of_ours(noise: bytes, at: int, byte: int) -> None:
    layer = bytearray(packed(first=noise, plugin_wasm=ONE))
    layer[at % len(layer)] = byte
    out = io.BytesIO()
    with suppress(FetchError):
        plugin_of_layer(io.BytesIO(bytes(layer)), out, limit_bytes=10_000)


@given(st.binary(max_size=600), st.lists(st.sampled_from(["gzip", "tar"]), max_size=3))
def test_any_download_gives_a_file(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, wraps: list[str]
) -> None:
    content = data
    for wrap in wraps:
        content = gzip.compress(content) if wrap == "gzip" else tar_of(x=content)
    path = tmp_path_factory.mktemp("download") / "module"
    path.write_bytes(content)
    found = unwrapped(path, limit_bytes=1 << 20)
    assert found.parent == path.parent
    assert found.is_file()


def test_a_module_in_many_wrappings_is_given_up(tmp_path: Path) -> None:
    content = ONE
    for _ in range(20):
        content = gzip.compress(content)
    (tmp_path / "module").write_bytes(content)
    assert not is_module(unwrapped(tmp_path / "module", limit_bytes=1 << 20))


def test_the_module_may_have_exactly_the_limit(tmp_path: Path) -> None:
    for number, wrapped in enumerate((gzip.compress(tar_of(x=ONE)), tar_of(x=ONE))):
        path = tmp_path / str(number)
        path.write_bytes(wrapped)
        assert is_module(unwrapped(path, limit_bytes=len(ONE)))
        with pytest.raises(TooLargeError):
            unwrapped(path, limit_bytes=len(ONE) - 1)
