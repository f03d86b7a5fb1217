"""The application's probes that the injector took over from the kubelet: `/app-health/…` and the like."""

from pilot_agent.status.app.configuration import AppProbeError, AppProber, parse_app_probers

__all__ = ["AppProbeError", "AppProber", "parse_app_probers"]
