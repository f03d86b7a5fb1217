"""One page of metrics somewhere else, streamed: never held as a whole unless the caller does."""

import zlib
from collections.abc import Iterator, Sequence
from typing import Final

from pilot_agent.http import Exchange, HttpError, as_url_error, open_exchange, url_of
from pilot_agent.http.target import request_target

_HOST: Final = "localhost"
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_PIECE_BYTES: Final = 65_536
_LINE_LIMIT_BYTES: Final = 1 << 20


class ScrapeError(Exception):
    """The page cannot be had, or not to its end; the text says why."""


class TooLargeError(ScrapeError):
    """The page is larger than the limit."""


class Page:
    """A page whose head is here. To be closed, whether it was read or not."""

    def __init__(self, exchange: Exchange, url: str) -> None:
        self._exchange, self._url = exchange, url

    @property
    def content_type(self) -> str | None:
        return self._exchange.header("content-type")

    def within(self, timeout_s: float) -> None:
        """Set the time limit for what is still to come."""
        self._exchange.within(max(timeout_s, 0.001))

    def chunks(self, limit_bytes: int) -> Iterator[bytes]:
        """Yield the page in pieces of 64 KiB or so, as it comes.

        Raises:
            ScrapeError: it broke off, was too slow, or is larger than `limit_bytes`; what was yielded is
                then its beginning, in whole lines.
        """
        size, unfinished = 0, b""
        try:
            for chunk in self._plain():
                size += len(chunk)
                if size > limit_bytes:
                    raise TooLargeError(f"response exceeds {limit_bytes} bytes")
                end = chunk.rfind(b"\n") + 1
                if end == 0:
                    unfinished += chunk
                    if len(unfinished) > _LINE_LIMIT_BYTES:
                        raise TooLargeError(f"a line exceeds {_LINE_LIMIT_BYTES} bytes")
                    continue
                if unfinished:
                    yield unfinished
                yield chunk[:end] if end < len(chunk) else chunk
                unfinished = chunk[end:]
        except (HttpError, zlib.error) as error:
            raise ScrapeError(f"error scraping {self._url}: {error}") from error
        if unfinished:
            yield unfinished

    def close(self) -> None:
        self._exchange.close()

    def _plain(self) -> Iterator[bytes]:
        if (self._exchange.header("content-encoding") or "").lower() != "gzip":
            yield from self._exchange.chunks()
            return
        unpacker = zlib.decompressobj(_GZIP_WINDOW)
        for chunk in self._exchange.chunks():
            while chunk and (piece := unpacker.decompress(chunk, _PIECE_BYTES)):
                yield piece
                chunk = unpacker.unconsumed_tail  # noqa: PLW2901  # what is left of it
        if piece := unpacker.flush():
            yield piece


def open_page(port: int, path: str, headers: Sequence[tuple[str, str]], *, timeout_s: float) -> Page:
    """Ask for the page at localhost; `timeout_s` bounds everything unless the page's limit is changed.

    Raises:
        ScrapeError: no answer, or another status than 200.
    """
    target = request_target(path)
    url = url_of(_HOST, port, target)
    try:
        exchange = open_exchange(_HOST, port, "GET", target, headers=headers, timeout_s=timeout_s)
    except HttpError as error:
        raise ScrapeError(f"error scraping {url}: {as_url_error('GET', url, error)}") from error
    if exchange.status != 200:
        exchange.close()
        raise ScrapeError(f"error scraping {url}, status code: {exchange.status}")
    return Page(exchange, url)
