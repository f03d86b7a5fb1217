"""Memory goes back to the system after a big message."""

import psutil

from pilot_agent.xds import memory
from tests.support.waiting import wait_for


def test_many_trims_are_one_and_freed_memory_goes_back_to_the_system() -> None:
    own = psutil.Process()
    held = [bytes(60_000) for _ in range(3000)]  # below malloc's limit for maps of their own
    pin = bytes(60_000)  # keeps the top of the heap in use
    full = own.memory_info().rss
    del held
    memory.trim_soon()
    memory.trim_soon()
    assert len(memory._pending) == 1
    wait_for(lambda: not memory._pending, what="the trim")
    wait_for(lambda: own.memory_info().rss < full - 80 * (1 << 20), what="less memory")
    assert len(pin) == 60_000
