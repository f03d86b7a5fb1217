"""Custom templates: plain parameters and a handful of functions of the reference's template language.

`{{ .name }}`, `{{ .a.b }}`, `{{ .name | upper }}`, `{{ toJSON .name }}`, `{{- … -}}` and comments are
understood. Conditions, loops and all else are refused with the action's text: a template half
rendered would be a configuration nobody has asked for.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from pilot_agent.bootstrap.errors import BootstrapError

_ACTION: Final = re.compile(r"(\s*\{\{-(?=\s)|\{\{)(.*?)((?<=\s)-\}\}\s*|\}\})", re.DOTALL)
_COMMENT: Final = re.compile(r"\s*/\*.*\*/\s*", re.DOTALL)
_PATH: Final = re.compile(r"(\.[A-Za-z_][A-Za-z0-9_]*)+")
_CALL: Final = re.compile(r"([A-Za-z][A-Za-z0-9]*)\s+(\S+)")


def expand(text: str, parameters: Mapping[str, Any]) -> str:
    """Return the text with every action replaced.

    Args:
        text: The template.
        parameters: Name → text, number, boolean, list or (for paths) mapping.

    Raises:
        BootstrapError: an action that is not understood, or a parameter that does not exist.
    """

    def replaced(action: re.Match[str]) -> str:
        inner = action[2]
        return "" if _COMMENT.fullmatch(inner) else _shown(_value(inner.strip(), parameters))

    return _ACTION.sub(replaced, text)


def _value(action: str, parameters: Mapping[str, Any]) -> object:
    head, *functions = (part.strip() for part in action.split("|"))
    if call := _CALL.fullmatch(head):
        functions.insert(0, call[1])
        head = call[2]
    if not _PATH.fullmatch(head):
        raise BootstrapError.of_config(_refused(action))
    value = _looked_up(head, parameters)
    for name in functions:
        if name not in _FUNCTIONS:
            raise BootstrapError.of_config(_refused(action))
        value = _FUNCTIONS[name](value)
    return value


def _looked_up(path: str, parameters: Mapping[str, Any]) -> object:
    value: Any = parameters
    for name in path[1:].split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise BootstrapError.of_config(
                f"template parameter {path} is not known; known are {', '.join(sorted(parameters))}"
            )
        value = value[name]
    return value


def _refused(action: str) -> str:
    known = ", ".join(sorted(_FUNCTIONS))
    return (
        f"template action {{{{ {action} }}}} is not supported: a custom template may hold parameters "
        f"({{{{ .name }}}}) and the functions {known}"
    )


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{' '.join(map(_shown, value))}]"
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{key}:{_shown(value[key])}' for key in sorted(value))}]"
    return str(value)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


_FUNCTIONS: Final[Mapping[str, Callable[[object], object]]] = {
    "toJSON": _json,
    "toJson": _json,
    "lower": lambda value: _shown(value).lower(),
    "upper": lambda value: _shown(value).upper(),
    "trim": lambda value: _shown(value).strip(),
    "quote": lambda value: _json(_shown(value)),
    "squote": lambda value: f"'{_shown(value)}'",
}
