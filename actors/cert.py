"""CertActor: the workload's identity from key to rotation. Serves no socket; SdsActor does."""

import random
import time
from collections.abc import Callable
from typing import Final, cast

import msgspec

from actors.cert_files import FileSecrets
from actors.cert_keeping import Keeping
from actors.cert_output import Output
from actors.cert_page import show_material, show_workload
from actors.cert_signing import Signer, SigningDone, SigningFailed
from actors.messages.cert import (
    GetSecret,
    IdentityRotated,
    RotateNow,
    RotationReason,
    SecretFailed,
    SecretReady,
    TrustBundle,
)
from actors.messages.control import PeerRestarted, WorkerExited
from actors.runtime.actor import RuntimeActor
from actors.runtime.context import Context, Timer, WorkerFinished
from actors.runtime.roles import Role
from pilot_agent.environment import go_duration
from pilot_agent.log import get_logger
from pilot_agent.security.material import Material
from pilot_agent.security.options import SecurityOptions
from pilot_agent.security.resource_names import ROOTS, WORKLOAD, ResourceNameError
from pilot_agent.security.rotation import longest_retry_s, retry_s, warm_up_retry_s
from pilot_agent.security.workload import (
    Identity,
    Workload,
    issued,
    pair_material,
    restored,
    roots_material,
)

LOOK_S: Final = 5.0
"""How often clock and files are looked at: a timer alone would miss a suspended machine's time, and a
watch may be lost."""

HASTE_S: Final = 1.0
"""Bound of the wait when somebody asks while a retry is due later: 400 streams must not become 400 CSRs."""

NO_CLIENT: Final = "failed to generate workload certificate: attempted to fetch secret, but ca client is nil"

_log = get_logger("cache")
_default_log = get_logger()
_sds_log = get_logger("sds")


class _Look(msgspec.Struct, frozen=True, kw_only=True):
    """To myself: look at the clock and at the files; a regular one is followed by the next."""

    regular: bool


class _FilesTouched(msgspec.Struct, frozen=True, kw_only=True):
    """To myself: something happened on the way to a certificate file."""


class _TryAgain(msgspec.Struct, frozen=True, kw_only=True):
    """To myself: the wait after a failed signing is over."""


class CertActor(RuntimeActor):
    """Answers GetSecret, RotateNow and TrustBundle; announces SecretReady and IdentityRotated.

    A rotation fetches the new certificate first; the old one is served until the new one is in hand
    (the reference drops it before). However many ask at once, one CSR is on its way at most.

    Crash policy: key, chain, roots, rotation time and failures are in the notebook; a restart serves
    the same certificate and does not ask the CA. A signing in flight is lost and begun anew.
    """

    def __init__(
        self,
        context: Context,
        *,
        now: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(context)
        self._now, self._draw = now, draw
        self._options = context.settings(SecurityOptions)
        self._identity = Identity(spiffe_id=self._options.key.spiffe_id)
        self._signer = Signer(context, self._options)
        self._waiting: set[str] = set()  # names whose asker was not answered yet
        self._retry: Timer | None = None
        self._hastened = False  # `_retry` was brought forward already
        self._rotation_reason: RotationReason = "due"  # of the rotation that is tried again
        self._rotation: Timer | None = None
        self._files = FileSecrets(context, self._options, lambda: context.tell_self(_FilesTouched()))
        self._output = Output(self._options.output_directory, shared=self._options.output_shared)
        self._keeping = Keeping(self._options)

    def on_start(self) -> None:
        """Go on with what the notebook has, or have the first certificate made without being asked."""
        kept = self.context.notebook.restore(Identity)
        self._identity, lost = restored(kept, spiffe_id=self._options.key.spiffe_id, now_s=self._now())
        if kept is not None and lost:
            _log.warn(f"state of the former process not used: {lost}")
        self._log_ca()
        if self._identity.workload is None and not self._files.has(WORKLOAD):
            self._keep(self._keeping.load(self._identity, self._now()))
        self.context.after(LOOK_S, _Look(regular=True))
        self._signer.look(self._now())
        if not self._options.has_envoy:
            for name in (WORKLOAD, ROOTS):  # what comes from files is written out, too
                self._files.read(name)
        for served in self._identity.files:
            self._files.read(served.name)
        if self._identity.workload is not None:
            self._announce(WORKLOAD, ROOTS)
            self._schedule(self._identity.workload)
            self._tell_envoy()
        is_served = self._identity.valid_workload(self._now()) is not None
        if not is_served and self._options.ca is not None and not self._files.has(WORKLOAD):
            self._begin(None if self._identity.workload is None else "due")
        self.context.ready()

    def on_message(self, message: object) -> None:
        match message:
            case GetSecret(resource_name=name):
                self._get_secret(name)
            case RotateNow(reason=reason):
                self._rotate(reason)
            case TrustBundle(ca_certificates_pem=bundle):
                self._trust_bundle(bundle)
            case WorkerFinished():
                self._worker_finished(message)
            case _Look() | _FilesTouched() | _TryAgain():
                self._woken(message)
            case PeerRestarted(role=Role.SDS):
                self._announce(WORKLOAD, ROOTS)
            case PeerRestarted() | WorkerExited():
                pass
            case _:
                _log.warn(f"unexpected message {type(message).__name__}")

    def _woken(self, message: "_Look | _FilesTouched | _TryAgain") -> None:
        match message:
            case _Look(regular=regular):
                self._look()
                if regular:
                    self.context.after(LOOK_S, message)
            case _FilesTouched():
                self.context.after(max(self._options.file_debounce_s, 0.0), _Look(regular=False))
            case _TryAgain():
                self._retry = None
                self._begin(self._rotation_reason if self._identity.workload is not None else None)

    # Asked for

    def _get_secret(self, name: str) -> None:
        _log.debug(f'generate secret "{name}"')
        try:
            comes_from_files = self._files.has(name)
        except ResourceNameError as error:
            self._tell_failure(name, str(error))
            return
        if comes_from_files:
            self._files.read(name)
        elif self._identity.valid_workload(self._now()) is not None:
            self._announce(name)
        elif self._options.ca is None:
            self._tell_failure(name, NO_CLIENT)
        else:
            self._waiting.add(name)
            self._hasten()

    def _announce(self, *names: str) -> None:
        """Send what the CA gave for these names; nothing if there is nothing, or if files have it."""
        workload = self._identity.valid_workload(self._now())
        if workload is None:
            return
        self._waiting.difference_update(names)
        self._send(
            *(
                roots_material(self._identity, workload) if name == ROOTS else pair_material(workload)
                for name in names
                if not self._files.has(name)
            )
        )

    def _send(self, *materials: Material) -> None:
        """Hand these to SdsActor one by one, and to OUTPUT_CERTS as one set."""
        for material in materials:
            fields = msgspec.structs.asdict(material)
            fields["resource_name"] = fields.pop("name")
            if self._options.has_envoy:
                self.context.send(Role.SDS, SecretReady(**fields))
            show_material(self.context, material)
        self._output.update(*materials)
        self._gauge()

    def _tell_failure(self, name: str, reason: str) -> None:
        self._waiting.discard(name)
        if self._options.has_envoy:
            self.context.send(Role.SDS, SecretFailed(resource_name=name, reason=reason))

    def _trust_bundle(self, bundle: tuple[str, ...]) -> None:
        if "".join(bundle) == "".join(self._identity.trust_bundle):
            return
        numbered, version_info = self._identity.numbered(self._now())
        self._keep(msgspec.structs.replace(numbered, trust_bundle=bundle, roots_version_info=version_info))
        self._keeping.save(self._identity)
        self._announce(ROOTS)
        if self._files.has(ROOTS):
            self._files.read(ROOTS)
        if self._identity.workload is not None:
            self._rotate("trust_bundle_changed")

    def _hasten(self) -> None:
        """Begin now; after a failure within a second, however many streams come back to ask."""
        if self._retry is None:
            self._rotate("due")
        elif not self._hastened:
            self._hastened = True
            self._retry.cancel()
            self._retry = self.context.after(HASTE_S * self._draw(), _TryAgain())

    # Signing: key, then CSR to the CA, then in place

    def _rotate(self, reason: RotationReason) -> None:
        if self._options.ca is None or (reason == "operator" and self._files.has(WORKLOAD)):
            _log.warn(f"no rotation ({reason}): certificates come from files, not from a CA")
            return
        self._rotation_reason = reason
        self._begin(reason if self._identity.workload is not None else None)

    def _begin(self, reason: RotationReason | None) -> None:
        if self._signer.busy:
            return
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._signer.begin(reason)

    def _worker_finished(self, finished: WorkerFinished) -> None:
        if finished.kind == "files":
            self._file_read(finished)
            return
        match self._signer.finished(finished):
            case SigningDone() as done:
                self._signed(done)
            case SigningFailed(text=text):
                self._signing_failed(text)
            case None:
                pass

    def _signed(self, done: SigningDone) -> None:
        side = 1 if self._draw() < 0.5 else -1
        try:
            identity, workload, is_new_root = issued(
                self._identity,
                key_pem=done.key.key_pem,
                signed=done.signed,
                now_s=self._now(),
                grace_ratio=self._options.grace_ratio,
                jitter=side * self._draw() * self._options.grace_ratio_jitter,
            )
        except ValueError as error:  # it expired on its way
            self._signing_failed(f"failed to generate workload certificate: {error}")
            return
        replaces = self._identity.workload is not None
        was_served = self._identity.valid_workload(self._now()) is not None
        self._keep(msgspec.structs.replace(identity, untold=done.reason or "" if replaces else ""))
        self._keeping.save(self._identity)
        self._log_new(workload, latency_s=done.latency_s)
        self._schedule(workload)
        if is_new_root:
            _log.info("Root cert has changed, start rotating root cert")
            _log.info("returned workload trust anchor from cache", ttl=self._ttl(workload))
        new = {WORKLOAD} if was_served and not is_new_root else {WORKLOAD, ROOTS}
        self._announce(*sorted(new | self._waiting, reverse=True))  # the pair first
        self._tell_envoy()

    def _tell_envoy(self) -> None:
        """Say what was not said yet; after a kill in between it is said again rather than never."""
        workload, reason = self._identity.workload, self._identity.untold
        if workload is None or not reason:
            return
        self.context.send(
            Role.ENVOY,
            IdentityRotated(
                reason=cast("RotationReason", reason),
                serial_number=workload.serial_number,
                not_after_unix_s=workload.not_after_s,
            ),
        )
        self._keep(msgspec.structs.replace(self._identity, untold=""))

    def _signing_failed(self, reason: str) -> None:
        self._keep(msgspec.structs.replace(self._identity, failures=self._identity.failures + 1))
        delay_s = self._retry_delay_s()
        self._retry, self._hastened = self.context.after(delay_s, _TryAgain()), False
        workload = self._identity.valid_workload(self._now())
        if workload is None:
            _sds_log.warn(f"failed to warm certificate: {reason}", retry=go_duration(delay_s))
        else:
            _log.error(
                f"rotation failed, the certificate at hand is served on: {reason}",
                ttl=self._ttl(workload),
                retry=go_duration(delay_s),
            )
        for name in tuple(self._waiting):
            self._tell_failure(name, reason)

    def _retry_delay_s(self) -> float:
        failures, workload = self._identity.failures, self._identity.valid_workload(self._now())
        if workload is None:
            return warm_up_retry_s(failures=failures, share=self._draw())
        longest_s = longest_retry_s(remaining_s=workload.not_after_s - self._now())
        return retry_s(failures=failures, longest_s=longest_s, share=self._draw())

    # Time

    def _schedule(self, workload: Workload) -> None:
        delay_s = workload.rotate_at_s - self._now()
        _log.debug(f"scheduled certificate for rotation in {go_duration(delay_s)}", resource=WORKLOAD)
        if self._rotation is not None:
            self._rotation.cancel()
        self._rotation = self.context.after(max(delay_s, 0.0), _Look(regular=False))
        self._gauge()

    def _look(self) -> None:
        """Rotate if it is due, and see whether files have changed. Comes at the due time and regularly."""
        workload = self._identity.workload
        is_due = workload is not None and workload.is_due(self._now())
        if is_due and self._retry is None and not self._files.has(WORKLOAD):
            self._rotate("due")
        self._files.look(self._now())
        self._output.look()
        self._signer.look(self._now())
        self._gauge()

    def forget(self) -> None:
        """Leave no key behind: this pod ends."""
        self._keeping.forget()

    def _gauge(self) -> None:
        workload = self._identity.workload
        if workload is not None and not self._files.has(WORKLOAD):
            show_workload(self.context, WORKLOAD, workload)

    # Files

    def _file_read(self, finished: WorkerFinished) -> None:
        outcome = self._files.finished(finished, self._identity, self._now())
        if outcome is None:
            return
        self._files.look(self._now())  # what changed while it was read
        if isinstance(outcome, SecretFailed):
            _log.error(f"certificate files of {outcome.resource_name} cannot be used: {outcome.reason}")
            self.context.count("num_file_secret_failures_total")
            self.context.send(Role.SDS, outcome)
            return
        self._keep(outcome.identity)
        self._send(outcome.material)
        if outcome.rotated is not None:
            self.context.send(Role.ENVOY, outcome.rotated)

    # Notebook and log

    def _keep(self, identity: Identity) -> None:
        self._identity = identity
        self.context.notebook.save(identity)

    def _ttl(self, workload: Workload) -> str:
        return go_duration(workload.not_after_s - self._now())

    def _log_new(self, workload: Workload, *, latency_s: float) -> None:
        _log.info(
            "generated new workload certificate",
            resourceName=WORKLOAD,
            latency=go_duration(latency_s),
            ttl=self._ttl(workload),
        )

    def _log_ca(self) -> None:
        ca = self._options.ca
        if ca is None or self.context.incarnation > 1:
            return
        _default_log.info(f"CA Endpoint {ca.request.address}, provider {ca.provider}")
        if not ca.request.plaintext:
            _default_log.info(f"Using CA {ca.request.address} cert with certs: {ca.request.root_path}")
