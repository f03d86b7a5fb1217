"""The kernel's own answer about the interfaces, beside psutil's."""

import socket

import psutil

from pilot_agent.proxyconfig.interfaces import read_interfaces


def test_the_kernel_tells_what_psutil_tells() -> None:
    up = {
        name
        for name, stats in psutil.net_if_stats().items()
        if stats.isup and "loopback" not in stats.flags.split(",")
    }
    expected = {
        name: {
            entry.address.partition("%")[0]
            for entry in entries
            if entry.family in (socket.AF_INET, socket.AF_INET6)
        }
        for name, entries in psutil.net_if_addrs().items()
        if name in up
    }

    got = {name: set(addresses) for name, addresses in read_interfaces().items()}

    assert {name: found for name, found in got.items() if found} == {
        name: found for name, found in expected.items() if found
    }
    assert "lo" not in got


def test_interfaces_come_in_the_order_of_their_index() -> None:
    order = [name for _, name in sorted(socket.if_nameindex())]
    names = list(read_interfaces())
    assert names == [name for name in order if name in names]
