"""Makes the image that all actors are forked from: small, and without what few of them need.

tenacity imports `asyncio`, which nothing here uses: a placeholder in its place saves 3 MB of memory and 20 ms
(CPython 3.11); whoever touches it gets the real module.
"""

from pilot_agent.stand_in import stand_in


def prepare() -> None:
    """Put the placeholder in place. To be called once, before anybody imports tenacity."""
    stand_in("asyncio", is_package=True)
