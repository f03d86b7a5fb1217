"""Modules that libraries import and hardly use, kept out of the process until somebody does use them."""

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any  # Any: whatever a module holds


class StandIn(ModuleType):
    """Stands in `sys.modules` for a module; asked for more than the names it has, it is the real one.

    A package says so: `import package.module` asks it for its `__path__`, and a plain module is asked for
    that by `from module import name` too, in vain.
    """

    def __init__(self, name: str, names: Mapping[str, Any], *, is_package: bool) -> None:
        super().__init__(name)
        self.__dict__.update(names)
        self._is_package = is_package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and not (name == "__path__" and self._is_package):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        real = importlib.import_module(self.__name__)
        self.__dict__.update(vars(real))
        return getattr(real, name)


def stand_in(name: str, names: Mapping[str, Any] | None = None, *, is_package: bool = False) -> None:
    """Put a stand-in where imports look first, unless the real module is there already."""
    if name in sys.modules:
        return
    sys.modules[name] = StandIn(name, names or {}, is_package=is_package)
    package, _, inner = name.rpartition(".")
    if package in sys.modules:  # `import package.inner` leaves its name there
        setattr(sys.modules[package], inner, sys.modules[name])
