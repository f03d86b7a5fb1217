"""Makes the image that all actors are forked from: small, and with everything in it that they need.

Two facts stand behind it (CPython 3.11, grpcio 1.85):
- gRPC imports `asyncio` and `grpc.aio`, which nothing here uses. Placeholders in their place save 3.2 MB
  of memory and 20 to 40 ms; whoever touches one gets the real module.
- `grpc.server` and `grpc.insecure_channel` import the modules that do the work when they are first called.
  Done in each child that costs 2.4 MB a child; done here it is shared.
"""

import importlib
import sys
from types import ModuleType
from typing import Any, Final

_UNUSED: Final = ("asyncio", "grpc.aio")
_USED_LATER: Final = ("grpc._channel", "grpc._interceptor", "grpc._server", "grpc.experimental")


class _Placeholder(ModuleType):
    """Stands in `sys.modules` until somebody asks it for something; then it is the real module."""

    def __getattr__(self, name: str) -> Any:  # Any: whatever the real module has under this name
        if name.startswith("__") and name != "__path__":  # the import system's own questions
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        real = importlib.import_module(self.__name__)
        self.__dict__.update(vars(real))
        return getattr(real, name)


def prepare() -> None:
    """Import gRPC without what nobody uses, and with what the children would import themselves.

    To be called once, before anything else imports gRPC; later it only imports.
    """
    for name in _UNUSED:
        if name not in sys.modules:
            sys.modules[name] = _Placeholder(name)
    for name in _USED_LATER:
        _import_if_there(name)


def _import_if_there(name: str) -> None:
    """Import an inner module of a library; a release that has it no longer costs memory, not the start."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # the library itself is missing
            raise
