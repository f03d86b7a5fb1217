"""PEM as text: chains joined, bundles merged. Nothing is decoded, so nothing heavy is imported."""

import re
from collections.abc import Iterable
from typing import Final

_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s.*?-----END \1-----", re.DOTALL)


def blocks(text: str, kind: str = "") -> list[str]:
    """Return the PEM blocks in `text`, of one kind ("CERTIFICATE") or of all, without what stands between."""
    return [found[0] for found in _BLOCK.finditer(text) if kind in ("", found[1])]


def assemble_chain(elements: Iterable[str]) -> str:
    """Join the CA's list: a line feed between elements where one lacks it, none added after the last.

    Source: the reference's secret cache (after signing).
    """
    chain = ""
    for element in elements:
        chain += element if not chain or chain.endswith("\n") else f"\n{element}"
    return chain


def merge_bundles(root_pem: str, trust_bundle: Iterable[str]) -> str:
    """Return both as one bundle: all blocks, each once, sorted as text, no line feed at the end.

    Source: the reference's trust bundle merge. It also splits entries that hold several blocks.
    """
    return "\n".join(sorted({block for text in (root_pem, *trust_bundle) for block in blocks(text)}))
