"""Settings and actor harness for the identity tests."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pykka

from actors.messages.control import LeaveEstate
from actors.runtime.roles import Role
from pilot_agent.security.file_worker import read_files
from pilot_agent.security.key_worker import make_key
from pilot_agent.security.options import CaOptions, CertificateFiles, SecurityOptions
from pilot_agent.security.sign_worker import sign
from pilot_agent.security.work import KeyParameters, SignRequest
from tests.support.context import FakeContext, MemoryNotebook
from tests.support.small_ca import SmallCa, provision
from tests.support.waiting import wait_for

T = TypeVar("T")
SPIFFE_ID = "spiffe://cluster.local/ns/default/sa/reviews"
WORKERS = {"key": make_key, "sign": sign, "files": read_files}


def security_options(folder: Path, ca: SmallCa | None, **changes: Any) -> SecurityOptions:
    """Return settings for `ca`, with all paths in `folder` and quick keys."""
    request = None
    if ca is not None:
        root, token = provision(folder, ca)
        request = CaOptions(
            provider="Citadel",
            request=SignRequest(
                csr_pem="",
                address=ca.address,
                server_name="",
                plaintext=False,
                root_path=root,
                token_path=token,
            ),
        )
    settings: dict[str, Any] = {
        "key": KeyParameters(spiffe_id=SPIFFE_ID, signature_algorithm="ECDSA"),
        "trust_domain": "cluster.local",
        "ca": request,
        "files": CertificateFiles.within(str(folder / "certs")),
        "socket_path": "./uds/socket",
        "external_sds": False,
        "grace_ratio": 0.5,
        "grace_ratio_jitter": 0.01,
        "output_directory": "",
        "output_shared": False,
        "kept_directory": "",
        "file_debounce_s": 0.01,
        "os_bundle_path": "",
        "crl_path": "",
        "private_key_provider": None,
        "jwt_policy": "third-party-jwt",
        "credential_fetcher": "JWT",
    }
    return SecurityOptions(**(settings | changes))


class ActorBench:
    """Starts incarnations of one actor on the same notebook; the clock moves when the test says so."""

    def __init__(
        self, role: Role, make: Callable[[FakeContext], "pykka.ActorRef[Any]"], options: SecurityOptions
    ) -> None:
        self.role, self.options = role, options
        self.notebook = MemoryNotebook()
        self.workers: dict[str, Callable[[bytes], bytes]] = dict(WORKERS)
        self.base_s = time.time()
        self.on_send: Callable[[Role, object], None] | None = None
        self._make = make
        self._refs: list[pykka.ActorRef[Any]] = []
        self.context = FakeContext(role=role)

    def now(self) -> float:
        return self.base_s + self.context.now_s

    def succeed(self) -> None:
        """Have an actor leave its clients to the next incarnation, as in an upgrade."""
        self.tell(LeaveEstate(patience_s=5.0))
        self.follow()

    def follow(self) -> None:
        """Start the next incarnation with what the one before leaves."""
        handed_down = tuple(os.dup(descriptor) for descriptor in self.context.hands_down)
        estate = wait_for(lambda: self.context.leaves, what="the estate")
        self.kill()
        self.start(handed_down, estate)

    def start(
        self, handed_down: tuple[int, ...] = (), estate: tuple[bytes, tuple[int, ...]] = (b"", ())
    ) -> None:
        """Start the next incarnation and wait until it is ready."""
        now_s = self.context.now_s
        self.context = FakeContext(
            role=self.role,
            incarnation=len(self._refs) + 1,
            notebook=self.notebook,
            options=(self.options,),
            workers=self.workers,
            now_s=now_s,
            on_send=self.on_send,
            handed_down=handed_down,
            estate=estate,
        )
        made = threading.Event()

        def deliver(message: object) -> None:
            assert made.wait(10)
            with contextlib.suppress(pykka.ActorDeadError):  # a thread of it that outlived it, as none does
                self._refs[-1].tell(message)

        self.context.deliver = deliver
        self._refs.append(self._make(self.context))
        made.set()
        wait_for(lambda: self.context.is_ready, what="ready")

    def tell(self, message: object) -> None:
        self._refs[-1].tell(message)

    def kill(self) -> None:
        """End the actor without its clean-up, as a SIGKILL would."""
        if self._refs and self._refs[-1].is_alive():
            self._refs[-1].stop()

    def forget(self) -> None:
        """Let the actor remove what it keeps, as at the end of the pod."""
        self._refs[-1].proxy().forget().get(timeout=20)

    def end(self) -> None:
        """Let the actor end in order, as Quit does; nothing happens if it is gone."""
        if self._refs and self._refs[-1].is_alive():
            self._refs[-1].proxy().quit(2.0).get(timeout=20)
            self._refs[-1].stop()

    def settle(self) -> None:
        """Wait until everything told so far was worked on, and what that led to."""
        for _ in range(5):
            self._refs[-1].proxy().actor_urn.get(timeout=20)

    def all_sent(self, kind: type[T]) -> list[T]:
        return [message for _, message in self.context.sent if isinstance(message, kind)]

    def wait_sent(self, kind: type[T], count: int = 1) -> list[T]:
        """Wait for `count` messages of this kind and return all there are."""
        wait_for(lambda: len(self.all_sent(kind)) >= count, within_s=20, what=f"{count} {kind.__name__}")
        return self.all_sent(kind)
