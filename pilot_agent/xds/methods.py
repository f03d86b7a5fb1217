"""The two methods of the aggregated discovery service."""

from typing import Final

from pilot_agent.xds.requests import Variant

METHODS: Final[dict[Variant, str]] = {
    "sotw": "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
    "delta": "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
}
