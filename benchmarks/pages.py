"""A report as Markdown and as one HTML page that needs nothing beside itself."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.plots import embedded

_STYLE: Final = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px }
th, td { border-bottom: 1px solid #8884; padding: .2rem .7rem; text-align: right }
th:first-child, td:first-child { text-align: left }
td.pass { color: #2a8a4a } td.fail { color: #c0392b; font-weight: bold }
img { max-width: 100%; background: #fff; border-radius: 4px; margin: .5rem 0 }
""".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    file: Path
    alternative: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading, paragraphs, then a table, then a picture; all but the heading may be missing."""

    title: str
    text: tuple[str, ...] = ()
    table: Table | None = None
    picture: Picture | None = None


def markdown(title: str, sections: Sequence[Section]) -> str:
    """Return the report; pictures are named by file, beside it."""
    parts = [f"# {title}"]
    for section in sections:
        parts += [f"## {section.title}", *section.text]
        if section.table is not None:
            lines = [section.table.head, ("---",) * len(section.table.head), *section.table.rows]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        if section.picture is not None:
            parts.append(f"![{section.picture.alternative}]({section.picture.file.name})")
    return "\n\n".join(parts) + "\n"


def page(title: str, sections: Sequence[Section]) -> str:
    """Return the same as HTML, pictures in itself."""
    body = "\n".join(_section(section) for section in sections)
    name = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{name}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n'
        f"<h1>{name}</h1>\n{body}\n</html>\n"
    )


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    parts += [f"<p>{html.escape(text)}</p>" for text in section.text]
    if section.table is not None:
        parts.append(_table(section.table))
    if section.picture is not None:
        parts.append(embedded(section.picture.file, html.escape(section.picture.alternative)))
    return "\n".join(parts)


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
    rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    return f"<table>\n<tr>{head}</tr>\n{rows}\n</table>"


def _cell(text: str) -> str:
    kind = "pass" if text == "pass" else "fail" if text.startswith("FAIL") else ""
    return f'<td class="{kind}">{html.escape(text)}</td>' if kind else f"<td>{html.escape(text)}</td>"
