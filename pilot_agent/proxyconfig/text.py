"""From configuration text (JSON or YAML) to plain objects, and from a document to YAML.

PyYAML is imported only for a text that is no JSON: the injector and the tools write JSON, and the
import costs more than all the rest of the configuration.
"""

import contextlib
import re
from typing import Any, Final

import msgspec

from pilot_agent.proxyconfig.errors import ConfigError

_PLAIN_STARTS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/.$_")
_DATE_OR_BASE_60: Final = re.compile(r"[0-9]{4}-[0-9]|[0-9_]+(:[0-5]?[0-9])+(\.[0-9_]*)?$")
_WORDS_OF_YAML: Final = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))


def valid_text(text: str) -> str:
    """Return the text with surrogates (bytes that are no UTF-8) replaced, as Go prints such bytes."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def parsed(text: str) -> object:
    """Return the object that a JSON or YAML text means.

    Raises:
        ConfigError: it is neither.
    """
    text = valid_text(text)
    try:
        if text.lstrip().startswith("{"):
            with contextlib.suppress(msgspec.DecodeError):  # a YAML flow mapping begins with a brace too
                return msgspec.json.decode(text)
        return _parsed_yaml(text)
    except RecursionError:
        raise ConfigError("error converting YAML to JSON: nested too deep") from None


def _parsed_yaml(text: str) -> object:
    import yaml  # noqa: PLC0415  # heavy, and seldom needed

    try:
        return _with_text_keys(yaml.load(text, Loader=_loader()))  # noqa: S506  # a safe loader, see there
    except (yaml.YAMLError, ValueError) as error:  # a number such as 0b_ passes the scanner only
        raise ConfigError(f"error converting YAML to JSON: yaml: {_in_one_line(error)}") from None


def _in_one_line(error: Exception) -> str:
    """Return place and problem as the reference's parser does; PyYAML's own text draws a picture."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return str(error).partition("\n")[0]
    return f"line {mark.line + 1}: {problem}"


def _loader() -> Any:  # Any: PyYAML's loader classes carry no useful types
    """Return the safe loader without the two readings that the reference does not know.

    `1:30` is no number of base 60 and `2026-01-31` no date there.
    """
    import yaml  # noqa: PLC0415

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {  # noqa: RUF012
            first: [
                (tag, _NoColon(pattern)) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"
            ]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    return Loader


class _NoColon:
    """A resolver's pattern that never matches a text with a colon in it."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern

    def match(self, text: str) -> object:
        return None if ":" in text else self._pattern.match(text)


def _with_text_keys(value: object) -> object:
    if isinstance(value, dict):
        return {_key(key): _with_text_keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_text_keys(item) for item in value]
    return value


def _key(key: object) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def as_yaml(value: object, indent: int = 0) -> str:
    """Return canonical JSON as YAML with sorted keys, two spaces of indent, lists not indented.

    This is the form in which the reference logs the effective configuration.
    """
    if not isinstance(value, dict) or not value:
        return _flow(value)
    pad, lines = " " * indent, []
    for key in sorted(value):
        item = value[key]
        if isinstance(item, dict) and item:
            lines.append(f"{pad}{_scalar(key)}:\n{as_yaml(item, indent + 2)}")
        elif isinstance(item, list) and item:
            lines.append(f"{pad}{_scalar(key)}:\n" + _list(item, indent))
        else:
            lines.append(f"{pad}{_scalar(key)}: {_flow(item)}\n")
    return "".join(lines)


def _list(items: list[object], indent: int) -> str:
    pad = " " * indent
    blocks = [as_yaml(item, indent + 2) if isinstance(item, dict) and item else _flow(item) for item in items]
    return "".join(f"{pad}- {block.strip()}\n" for block in blocks)


def _flow(value: object) -> str:
    return _scalar(value) if isinstance(value, str) else _json(value)


def _scalar(text: str) -> str:
    """Return a text plain where that is surely safe, else in double quotes."""
    plain = (
        text[:1] in _PLAIN_STARTS
        and text.isprintable()
        and text.lower() not in _WORDS_OF_YAML
        and not text.endswith((" ", ":"))
        and ": " not in text
        and " #" not in text
        and not _looks_like_a_number(text)
        and not _DATE_OR_BASE_60.match(text)
    )
    return text if plain else _json(text)


def _json(value: object) -> str:
    """Return JSON that YAML reads too: what is not printable is escaped, the line ends of Unicode too."""
    text = msgspec.json.encode(value).decode()
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in text)


def _looks_like_a_number(text: str) -> bool:
    for read in (float, lambda digits: int(digits, 0)):
        try:
            read(text)
        except ValueError:
            continue
        return True
    return text.lstrip("+-.").isdecimal() or text.lower() in (".inf", ".nan")
