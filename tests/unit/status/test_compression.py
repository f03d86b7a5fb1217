"""How a page is packed: what the client's header asks for, with and without a zstd in this Python."""

import importlib
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from pilot_agent.status import compression
from pilot_agent.status.compression import chosen
from pilot_agent.status.messages import Answer
from tests.support.status_client import get
from tests.unit.status.conftest import Start

MODULES = ("compression.zstd", "backports.zstd")


def zstd() -> Any:  # Any: a module that this Python may not have
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


wants_zstd = pytest.mark.skipif(zstd() is None, reason="wants Python 3.14 or backports.zstd")


@pytest.fixture
def without_zstd(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    compression._zstd.cache_clear()
    yield
    compression._zstd.cache_clear()


GZIP_OR_NOTHING = [
    (None, None),
    ("", None),
    ("gzip", "gzip"),
    ("GZIP", "gzip"),
    ("*", "gzip"),
    ("br, lz4", None),
    ("gzip;q=0", None),
    ("gzip;q=0, *;q=1", None),
    ("gzip;q=nonsense", None),
    ("deflate, gzip;q=1.0, zstd;q=0.5", "gzip"),
    ("zstd;q=0, gzip;q=0.1", "gzip"),
]


@wants_zstd
@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        *GZIP_OR_NOTHING,
        ("zstd", "zstd"),
        ("gzip, zstd", "zstd"),
        ("gzip;q=0.5, zstd;q=0.5", "zstd"),
        ("gzip;q=0.2, zstd;q=0.3", "zstd"),
    ],
)
def test_zstd_wins_where_it_is_wanted_as_much(header: str | None, encoding: str | None) -> None:
    assert chosen(header) == encoding


@pytest.mark.usefixtures("without_zstd")
@pytest.mark.parametrize(
    ("header", "encoding"),
    [*GZIP_OR_NOTHING, ("zstd", None), ("gzip, zstd", "gzip"), ("gzip;q=0.2, zstd;q=0.3", "gzip")],
)
def test_without_zstd_it_is_gzip_or_the_page_as_it_is(header: str | None, encoding: str | None) -> None:
    assert chosen(header) == encoding


@wants_zstd
def test_whole_and_streamed_pages_come_as_zstd(serve: Start) -> None:
    pieces = [b"a" * 100_000, b"b" * 100_000]
    for body in (b"".join(pieces), iter(pieces)):
        served = serve(lambda _, body=body: Answer(body=body))
        answer = get(served.port, "/", "Accept-Encoding: gzip, zstd")
        assert answer.headers["Content-Encoding"] == "zstd"
        assert answer.headers["Vary"] == "Accept-Encoding"
        assert zstd().decompress(answer.body) == b"".join(pieces)


@pytest.mark.usefixtures("without_zstd")
def test_who_wants_zstd_alone_gets_the_page_unpacked_where_there_is_none(serve: Start) -> None:
    served = serve(lambda _: Answer(body=b"a" * 5000))
    answer = get(served.port, "/", "Accept-Encoding: zstd")
    assert (answer.headers.get("Content-Encoding"), answer.body) == (None, b"a" * 5000)
    squeezed = get(served.port, "/", "Accept-Encoding: gzip, zstd")
    assert zlib.decompress(squeezed.body, 31) == b"a" * 5000


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [("text/plain", "gzip"), ("image/png", "gzip"), ("", "gzip")]
    + [(kind, None) for kind in ("application/x-gzip", "Application/ZIP", "image/jpeg", "audio/ogg")],
)
def test_what_is_packed_already_is_sent_as_it_is(
    serve: Start, content_type: str, encoding: str | None
) -> None:
    port = serve(lambda _: Answer(content_type=content_type, body=b"x" * 2000)).port
    assert get(port, "/", "Accept-Encoding: gzip").headers.get("Content-Encoding") == encoding
