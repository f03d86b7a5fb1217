"""A repr that leaves fields out, for structs that hold a key or a token: none of it gets into a log line."""

from collections.abc import Callable
from typing import Any

import msgspec


def without(*hidden: str) -> Callable[[Any], str]:  # Any: the struct that it becomes a method of
    """Return a `__repr__` for a `msgspec.Struct` that shows every field but the `hidden` ones."""

    def shown(self: msgspec.Struct) -> str:
        names = (name for name in self.__struct_fields__ if name not in hidden)
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return shown
