"""Envoy's configuration file and command line: settings in, document and arguments out.

options = BootstrapOptions.build(environment, loaded, istio_version=version)
data = render(options, generation=3)
arguments = envoy_arguments(options, config_file="etc/istio/proxy/envoy-rev.json")
"""

from pilot_agent.bootstrap.arguments import HotRestart, envoy_arguments
from pilot_agent.bootstrap.document import GENERATION_HEADER, document, lightstep_token_file, render
from pilot_agent.bootstrap.errors import BootstrapError
from pilot_agent.bootstrap.options import BootstrapOptions
from pilot_agent.bootstrap.platform import Platform, discover

__all__ = [
    "GENERATION_HEADER",
    "BootstrapError",
    "BootstrapOptions",
    "HotRestart",
    "Platform",
    "discover",
    "document",
    "envoy_arguments",
    "lightstep_token_file",
    "render",
]
