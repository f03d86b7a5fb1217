"""One run of the command, from settings to rules: what comes in which order."""

from collections.abc import Mapping, Sequence
from typing import Final

from pilot_agent.capture.describe import configuration_lines, environment_lines
from pilot_agent.capture.errors import CaptureError, ValidationError
from pilot_agent.capture.machine import read_machine, read_proxy_and_dns
from pilot_agent.capture.options import CaptureOptions, CaptureSettings, build, check
from pilot_agent.capture.rules import Rule
from pilot_agent.capture.turn import Turn
from pilot_agent.log import get_logger

_NO_DNS_SERVERS: Final = (
    "REDIRECT_DNS is set, but CAPTURE_ALL_DNS is false, and no DNS servers provided. DNS capture disabled."
)
_FAILED, _NOT_CAPTURED = 1, 126

_log = get_logger()


def run(settings: CaptureSettings, variables: Mapping[str, str]) -> int:
    """Do what the settings ask for and return the exit status: 0, 1 for a failure, 126 for no capture."""
    try:
        _run(settings, variables)
    except ValidationError as error:
        _log.error(str(error))
        return _NOT_CAPTURED
    except CaptureError as error:
        _log.error(str(error))
        return _FAILED
    return 0


def _run(settings: CaptureSettings, variables: Mapping[str, str]) -> None:
    machine = read_machine(settings, envoy_user=_user(variables))
    check(settings)
    if settings.dry_run:
        _log.info("running iptables in dry-run mode, no rule changes will be made")
    if not settings.skip_rule_apply:
        options = build(settings, machine)
        _describe(options, variables)
        if settings.native_nftables:
            _nftables(options)
        else:
            _iptables(options, variables)
    if settings.run_validation:
        from pilot_agent.capture.validation import validate  # noqa: PLC0415  # only a CNI's pods ask for it

        validate(settings, ipv6=machine.has_ipv6)


def _describe(options: CaptureOptions, variables: Mapping[str, str]) -> None:
    if options.settings.native_nftables:
        _log.info("native nftables enabled, using nft rules for traffic redirection.")
    if options.settings.redirect_dns and not options.dns:
        _log.warn(_NO_DNS_SERVERS)
    kind = "nftables" if options.settings.native_nftables else "iptables"
    _log.info(f"Istio {kind} environment:\n{environment_lines(variables)}")
    _log.info(f"Istio config:\n{configuration_lines(options)}")


def _iptables(options: CaptureOptions, variables: Mapping[str, str]) -> None:
    from pilot_agent.capture.iptables_rules import build_rules  # noqa: PLC0415  # one of two

    rules = build_rules(options)
    if options.settings.dry_run:
        from pilot_agent.capture.dry_run import Record, dry_iptables  # noqa: PLC0415

        dry_iptables(options, rules, Record(variables.get("DRY_RUN_FILE_PATH", "")), _log.info)
        _log.info("skipping configuring routes due to dry run mode")
        return
    if options.settings.cleanup_only:
        from pilot_agent.capture.backend import check_forced  # noqa: PLC0415

        check_forced(options.settings.force_iptables_binary)
        _clean(options.settings, rules)
        return
    from pilot_agent.capture.apply import apply_iptables  # noqa: PLC0415

    with Turn():
        apply_iptables(options, rules)


def _nftables(options: CaptureOptions) -> None:
    if options.settings.cleanup_only and not options.settings.dry_run:
        _clean(options.settings, ())
        return
    from pilot_agent.capture.apply_nftables import apply_nftables  # noqa: PLC0415  # one of two

    with Turn():
        apply_nftables(options)


def _clean(settings: CaptureSettings, rules: Sequence[Rule]) -> None:
    from pilot_agent.capture.cleaning import clean  # noqa: PLC0415  # mostly rules are made
    from pilot_agent.capture.programs import Deferred, Programs  # noqa: PLC0415

    programs = Programs()
    programs.finish()  # a cleanup is never broken off
    with Turn(), Deferred(programs):
        looks = clean(programs, settings, rules)
    from pilot_agent.capture.apply import log_final_state  # noqa: PLC0415

    log_final_state(programs, [one.backend for one in looks])


def run_clean(settings: CaptureSettings, variables: Mapping[str, str]) -> int:
    """Remove everything of ours, as `istio-clean-iptables` of older releases; the status is always 0."""
    try:
        if settings.dry_run:
            from pilot_agent.capture.old_cleanup import old_cleanup_commands  # noqa: PLC0415  # rare

            for line in old_cleanup_commands(
                settings, read_proxy_and_dns(settings, envoy_user=_user(variables))
            ):
                _log.info(line)
        else:
            _clean(settings, ())
    except CaptureError as error:
        _log.error(str(error))
    return 0


def _user(variables: Mapping[str, str]) -> str:
    return variables.get("ENVOY_USER", "istio-proxy")
