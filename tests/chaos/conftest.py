"""Chaos stands in the same world as the scenarios."""

from tests.scenarios.conftest import istiod, mesh, workdir, world

__all__ = ["istiod", "mesh", "workdir", "world"]
