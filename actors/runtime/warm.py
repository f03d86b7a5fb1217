"""Makes the image that all actors are forked from: small, and with everything in it that they need.

Two facts stand behind it (CPython 3.11, grpcio 1.85):
- gRPC imports `asyncio` and `grpc.aio`, which nothing here uses. Placeholders in their place save 3.2 MB
  of memory and 20 to 40 ms; whoever touches one gets the real module.
- `grpc.server` and `grpc.insecure_channel` import the modules that do the work when they are first called.
  Done in each child that costs 2.4 MB a child; done here it is shared.
"""

import importlib
from typing import Final

from pilot_agent.stand_in import stand_in

_UNUSED: Final = ("asyncio", "grpc.aio")
_USED_LATER: Final = ("grpc._channel", "grpc._interceptor", "grpc._server", "grpc.experimental")


def prepare() -> None:
    """Import gRPC without what nobody uses, and with what the children would import themselves.

    To be called once, before anything else imports gRPC; later it only imports.
    """
    for name in _UNUSED:
        stand_in(name, is_package=True)
    for name in _USED_LATER:
        _import_if_there(name)


def _import_if_there(name: str) -> None:
    """Import an inner module of a library; a release that has it no longer costs memory, not the start."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # the library itself is missing
            raise
