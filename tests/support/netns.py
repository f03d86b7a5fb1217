"""Network namespaces for a test: pods on a wire of their own, which nothing outside can see or touch.

    with Wire() as wire:
        pod = wire.pod("pod", 2)            # 10.77.0.2, fd77::2
        peer = wire.pod("peer", 3)
        pod.run("iptables-save")            # a program in the pod
        with peer.entered():                # or this thread; a socket stays where it was made
            server = socket.create_server(("", 8080))

A pod lasts as long as the process that holds it, and that one ends when this process does: a killed test
leaves nothing behind. Needs root, `ip`, `unshare` and `nsenter`.
"""

import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

_CLONE_NEWNET: Final = 0x40000000
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def require_network_namespaces(*programs: str) -> None:
    """Skip the test, with the reason, where namespaces or one of `programs` cannot be had."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    for program in ("ip", "unshare", "nsenter", *programs):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} on PATH (Debian: apt-get install iproute2 iptables nftables)")
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        pytest.skip(f"network namespaces cannot be made here: {tried.stderr.strip()}")


class Namespace:
    """One network namespace with a mount namespace of its own; only the loopback is there, and up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", "echo up; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"up\n", f"namespace {self.name} could not be made"
        self._net = os.open(f"/proc/{self._holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.run("ip", "link", "set", "lo", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        os.close(self._net)
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait(10)

    @property
    def pid(self) -> int:
        """Return the pid of a process in the namespaces, for `ip link set … netns PID`."""
        return self._holder.pid

    def prefix(self, *, uid: int | None = None, gid: int | None = None) -> tuple[str, ...]:
        """Return the words to put before a program's, to run it here, and as somebody."""
        words = (_path("nsenter"), "--target", str(self.pid), "--net", "--mount", "--wd=.", "--")
        if uid is None and gid is None:
            return words
        user, group = uid or 0, gid if gid is not None else uid or 0
        # It may read everything, or it could not be started from a checkout or a Python below /root.
        reading = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
        who = (f"--reuid={user}", f"--regid={group}", "--clear-groups")
        return (*words, _path("setpriv"), *who, *(reading if user else ()), "--")

    def run(
        self,
        *words: str,
        uid: int | None = None,
        gid: int | None = None,
        environment: Mapping[str, str] | None = None,
        check: bool = True,
        within_s: float = 30.0,
        text: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Return how a program ended here, with what it wrote; one that fails is an error if `check`."""
        ended = subprocess.run(
            [*self.prefix(uid=uid, gid=gid), *words],
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )
        assert not check or ended.returncode == 0, f"{words}: {ended.returncode} {ended.stdout}{ended.stderr}"
        return ended

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Have this thread make its sockets here."""
        before = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(self._net)
            yield
        finally:
            _enter(before)
            os.close(before)

    def add_address(self, address: str, device: str = "lo") -> None:
        self.run("ip", "address", "add", address, "dev", device, *(["nodad"] if ":" in address else []))

    def bind_file(self, path: Path, over: str) -> None:
        """Have a file stand in the place of another, for programs in here alone."""
        self.run("mount", "--bind", str(path), over)


class Pod(Namespace):
    """A namespace on a wire."""

    ipv4 = ""
    ipv6 = ""


class Wire:
    """A bridge and what is plugged into it."""

    def __init__(self, ipv4: str = "10.77.0.{}", ipv6: str = "fd77::{:x}") -> None:
        self._ipv4, self._ipv6 = ipv4, ipv6
        self._stack = ExitStack()
        self._switch = Namespace("switch")

    def __enter__(self) -> Self:
        self._stack.enter_context(self._switch)
        self._switch.run("ip", "link", "add", "wire", "type", "bridge")
        self._switch.run("ip", "link", "set", "wire", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def pod(self, name: str, number: int, *, ipv6: bool = True) -> Pod:
        """Return a new pod with the addresses that `number` stands for, at `eth0`."""
        pod = self._stack.enter_context(Pod(name))
        port = f"port{number}"
        words = ("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(pod.pid))
        self._switch.run(*words)
        self._switch.run("ip", "link", "set", port, "master", "wire", "up")
        pod.run("ip", "link", "set", "eth0", "up")
        pod.ipv4 = self._ipv4.format(number)
        pod.add_address(f"{pod.ipv4}/24", "eth0")
        pod.run("ip", "route", "add", "default", "dev", "eth0")
        if ipv6:
            pod.ipv6 = self._ipv6.format(number)
            pod.add_address(f"{pod.ipv6}/64", "eth0")
        return pod


@contextmanager
def sockets_owned_by(uid: int) -> Iterator[None]:
    """Have the sockets that this thread makes belong to a user and the group of the same number."""
    _LIBC.setfsgid(uid)
    _LIBC.setfsuid(uid)
    try:
        yield
    finally:
        _LIBC.setfsuid(0)
        _LIBC.setfsgid(0)


def connect(namespace: Namespace, address: tuple[str, int], timeout_s: float = 5.0) -> socket.socket:
    """Return a connection from `namespace`, made as root.

    Raises:
        OSError: there is none.
    """
    with namespace.entered():
        return socket.create_connection(address, timeout=timeout_s)


def wait_listening(namespace: Namespace, address: tuple[str, int], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while True:
        try:
            connect(namespace, address, 1.0).close()
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens on {address} in {namespace.name}"
            time.sleep(0.02)
        else:
            return


def _path(program: str) -> str:
    """Return where a program is: what runs in a pod may have another PATH, or none."""
    found = shutil.which(program)
    assert found is not None, f"there is no {program} on PATH"
    return found


def _enter(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
