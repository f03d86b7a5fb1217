"""`pilot-agent proxy`: from parsed flags to the running tree, in the reference's order.

Two things are slow: importing the actors, and making the first key. So everything that can end the agent
with an error is looked at first, without them; `before_heavy_imports` is where work for another process
can begin; `first_envoy` has Envoy load on the other processor; and `actors.tree`, which imports every
actor, comes last.
"""

import gc
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pilot_agent.cli.alone import be_alone_in
from pilot_agent.cli.command import Invocation
from pilot_agent.cli.commands.proxy import ROLES
from pilot_agent.cli.errors import CliError
from pilot_agent.cli.flags import Values
from pilot_agent.cli.global_flags import configure_logging
from pilot_agent.cli.lean_imports import keep_imports_lean
from pilot_agent.cli.program_group import take_group_of_program
from pilot_agent.cli.succession import begin, for_the_next
from pilot_agent.environment import Environment
from pilot_agent.gotext import quote
from pilot_agent.log import get_logger
from pilot_agent.service_manager import ServiceManager
from pilot_agent.version import build_info

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from actors.runtime.first_envoy import FirstEnvoy
    from actors.runtime.workers import Prestarted
    from pilot_agent.cli.succession import Succession
    from pilot_agent.proxyconfig import ProxyFlags

_log = get_logger()


def run(invocation: Invocation) -> int:
    """Run the agent to its end and return its exit status.

    Raises:
        CliError: it cannot start so; nothing was started or written then.
    """
    if (start := begin(os.environ)) is None:
        return _run(invocation, None)
    with start.or_the_version_before():
        return _run(invocation, start)


def _run(invocation: Invocation, start: "Succession | None") -> int:
    command, variables = (sys.executable, *sys.orig_argv[1:]), dict(os.environ)  # before any is changed
    gc.disable()  # until the supervisor runs: what is imported stays
    if start is None:
        _end_at_once_on_signals()
    take_group_of_program(sys.argv[0])
    service_manager = ServiceManager.take(os.environ, os.getpid())
    values = invocation.values
    configure_logging(values)
    _log_start(values)
    role = _role(invocation.arguments)
    keep_imports_lean()
    environment = Environment(os.environ)
    try:
        prestarted = before_heavy_imports(environment) if start is None else ()
        settings = _settings(environment, _proxy_flags(role, values), start)
    except ValueError as error:  # each topic's own errors derive from it
        raise CliError(str(error)) from error
    finally:
        for warning in dict.fromkeys(environment.warnings):  # several topics read the same variable
            _log.warn(warning)
    if start is not None and start.is_probe:
        return _probe(start)
    config_path = _config_path(settings)
    be_alone_in(config_path)  # before anything is written; the descriptor lives with this process
    variables = for_the_next(variables, external_sds=_has_external_sds(settings))
    place = Place(command, variables, str(config_path), start)
    return _run_tree(settings, prestarted, service_manager, place)


def _probe(start: "Succession") -> int:
    """Load all that the agent would, look at what it would take over, and end."""
    from actors.runtime.warm import prepare  # noqa: PLC0415

    prepare()
    from actors.tree import load_all  # noqa: PLC0415

    load_all()
    start.look_at_notebooks()
    return 0


def _config_path(settings: tuple[object, ...]) -> Path:
    from pilot_agent.envoy.options import EnvoyOptions  # noqa: PLC0415

    return Path(next(topic.config_path for topic in settings if isinstance(topic, EnvoyOptions)))


def _has_external_sds(settings: tuple[object, ...]) -> bool:
    from pilot_agent.security.options import SecurityOptions  # noqa: PLC0415

    return next(topic.external_sds for topic in settings if isinstance(topic, SecurityOptions))


def _end_at_once_on_signals() -> None:
    """Let SIGTERM end a start with 0: nothing has been started or written that would outlive this process.

    Without it the status would be that of a killed process, and as process 1 of a container the signal
    would be lost. The supervisor puts its own handlers in their place.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a restart is wanted, and this is a start


def before_heavy_imports(environment: Environment) -> "tuple[Prestarted, ...]":
    """Begin what another process can do while this one imports: the first key and its CSR.

    Called after the flags were found good and before any module of a topic is loaded: the process is
    still small and has one thread, so a fork is cheap and safe. What is begun here must end by itself
    when this process does, for the configuration may still turn out to be wrong. Where certificates come
    from files, the key is made for nothing (50 ms on another core).
    """
    if environment.boolean("FILE_MOUNTED_CERTS", default=False):
        return ()
    from actors.runtime.prestart import prestart  # noqa: PLC0415
    from pilot_agent.security.work import KeyParameters, encode  # noqa: PLC0415
    from pilot_agent.security.workers import WORKERS  # noqa: PLC0415

    return (prestart("key", WORKERS["key"], encode(KeyParameters.read(environment))),)


def _log_start(values: Values) -> None:
    for name, text in values.printed():
        _log.info(f"FLAG: --{name}={quote(text)}")
    _log.info(f"Version {build_info()}")


def _role(arguments: list[str]) -> str:
    role = arguments[0] if arguments else ROLES[0]
    if role not in ROLES:
        raise CliError(f"invalid proxy Type: {role}")
    return role


def _proxy_flags(role: str, values: Values) -> "ProxyFlags":
    from pilot_agent.proxyconfig import ProxyFlags  # noqa: PLC0415  # see the head of this module

    return ProxyFlags(
        role=role,
        domain=values.string("domain"),
        mesh_config=values.string("meshConfig"),
        service_cluster=values.string("serviceCluster"),
        proxy_log_level=values.string("proxyLogLevel"),
        proxy_component_log_level=values.string("proxyComponentLogLevel"),
        concurrency=values.integer("concurrency"),
        template_file=values.string("templateFile"),
        outlier_log_path=values.string("outlierLogPath"),
        sts_port=values.integer("stsPort"),
        log_as_json=values.boolean("log_as_json"),
        profiling=values.boolean("profiling"),
    )


def _settings(
    environment: Environment, flags: "ProxyFlags", start: "Succession | None" = None
) -> tuple[object, ...]:
    """Return one settings object for each topic; what is wrong with the configuration is found here.

    Raises:
        ValueError: of a topic's own kind, with the text that the user is to read.
    """
    # Imports stand here because of what the head of this module says.
    from pilot_agent.bootstrap.options import BootstrapOptions  # noqa: PLC0415
    from pilot_agent.dns.options import DnsOptions  # noqa: PLC0415
    from pilot_agent.envoy.options import EnvoyOptions  # noqa: PLC0415
    from pilot_agent.grpc_bootstrap import GrpcBootstrapOptions  # noqa: PLC0415
    from pilot_agent.health.options import HealthOptions  # noqa: PLC0415
    from pilot_agent.proxyconfig import load  # noqa: PLC0415
    from pilot_agent.security.options import SecurityOptions  # noqa: PLC0415
    from pilot_agent.status.options import StatusOptions  # noqa: PLC0415
    from pilot_agent.wasm.options import WasmOptions  # noqa: PLC0415
    from pilot_agent.xds.options import XdsOptions  # noqa: PLC0415

    loaded = load(environment, flags)
    config, node = loaded.proxy_config, loaded.node
    known = None if start is None else start.external_sds
    security = SecurityOptions.build(environment, config, node, external_sds=known)
    security.log_start()
    bootstrap = BootstrapOptions.build(
        environment, loaded, istio_version=build_info().version, external_sds=security.external_sds
    )
    return (
        DnsOptions.build(environment, config, node),
        security,
        bootstrap,
        GrpcBootstrapOptions.build(environment, bootstrap, certificates=security.output_directory),
        XdsOptions.build(environment, config, node),
        StatusOptions.build(environment, config, node, profiling=flags.profiling),
        HealthOptions.build(environment, config, node),
        EnvoyOptions.build(environment, config, node),
        WasmOptions.build(environment, config, node),
    )


class Place(NamedTuple):
    """How and where this agent was started."""

    command: tuple[str, ...]
    environment: dict[str, str]
    config_path: str
    start: "Succession | None"


def _run_tree(
    settings: tuple[object, ...],
    prestarted: "tuple[Prestarted, ...]",
    service_manager: ServiceManager,
    place: Place,
) -> int:
    """Import what is heavy, and hand over to the actors."""
    from actors.runtime.warm import prepare  # noqa: PLC0415

    with _first_envoy(settings, place) as first:
        prepare()
        from actors.runtime.handover import Launch, Life  # noqa: PLC0415
        from actors.tree import run_tree  # noqa: PLC0415
        from pilot_agent.log.bridge import bridge_library_logs  # noqa: PLC0415  # imports logging
        from pilot_agent.status.listener import StatusListener, open_listener  # noqa: PLC0415
        from pilot_agent.status.options import StatusOptions  # noqa: PLC0415

        bridge_library_logs()
        status = next(topic for topic in settings if isinstance(topic, StatusOptions))
        taken = place.start.handover if place.start is not None else None
        if taken is not None:
            descriptor = taken.kept[0] if taken.kept else -1
        else:
            descriptor = listening.detach() if (listening := open_listener(status)) is not None else -1
    launch = Launch(place.command, place.environment)
    return run_tree(
        (*settings, StatusListener(descriptor=descriptor)),
        kept=(descriptor,) if descriptor >= 0 else (),
        prestarted=prestarted,
        service_manager=service_manager,
        life=Life(launch=launch, words=tuple(sys.argv[1:]), directory=place.config_path, taken=taken),
        first_envoy=first,
    )


def _first_envoy(settings: tuple[object, ...], place: Place) -> "AbstractContextManager[FirstEnvoy | None]":
    """Return the block in which Envoy loads beside the imports; a version before has one already."""
    if place.start is not None:
        return nullcontext()
    from actors.runtime.first_envoy import first_envoy  # noqa: PLC0415
    from actors.runtime.roles import Role  # noqa: PLC0415
    from actors.runtime.settings import Settings  # noqa: PLC0415
    from pilot_agent.bootstrap.options import BootstrapOptions  # noqa: PLC0415
    from pilot_agent.envoy.options import EnvoyOptions  # noqa: PLC0415
    from pilot_agent.security.options import SecurityOptions  # noqa: PLC0415
    from pilot_agent.xds.options import XdsOptions  # noqa: PLC0415

    known = Settings(settings)
    sockets = {
        Role.SDS: os.path.normpath(known.get(SecurityOptions).socket_path),
        Role.DOWNSTREAM_XDS: known.get(XdsOptions).socket_path,
    }
    return first_envoy(known.get(EnvoyOptions), known.get(BootstrapOptions), sockets)
