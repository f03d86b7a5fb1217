"""Every metric family of the agent: name without its prefix, type, help text.

The first part is the reference's, so that dashboards go on working; the second is what only this agent
has.
"""

from typing import Final, Literal, NamedTuple


class Family(NamedTuple):
    kind: Literal["counter", "gauge", "histogram"]
    help: str


FAMILIES: Final[dict[str, Family]] = {
    "cert_expiry_seconds": Family(
        "gauge",
        "The time remaining, in seconds, before the certificate chain will expire."
        " A negative value indicates the cert is expired.",
    ),
    "dns_requests_total": Family("counter", "Total number of DNS requests."),
    "dns_upstream_failures_total": Family("counter", "Total number of DNS requests that failed upstream."),
    "dns_upstream_request_duration_seconds": Family(
        "histogram", "Total time in seconds Istio takes to get DNS response from upstream."
    ),
    "dns_upstream_requests_total": Family("counter", "Total number of DNS requests forwarded to upstream."),
    "envoy_connection_terminations": Family("counter", "The total number of connection errors from envoy."),
    "istiod_connection_failures": Family("counter", "The total number of connection failures to Istiod"),
    "istiod_connection_terminations": Family("counter", "The total number of connection errors to Istiod"),
    "num_failed_outgoing_requests": Family(
        "counter", "Number of failed outgoing requests (e.g. to a token exchange server, CA, etc.)"
    ),
    "num_file_secret_failures_total": Family("counter", "Number of times secret generation failed for files"),
    "num_file_watcher_failures_total": Family(
        "counter", "Number of times file watcher failed to add watchers"
    ),
    "num_outgoing_requests": Family(
        "counter", "Number of total outgoing requests (e.g. to a token exchange server, CA, etc.)"
    ),
    "num_outgoing_retries": Family(
        "counter", "Number of outgoing retry requests (e.g. to a token exchange server, CA, etc.)"
    ),
    "outgoing_latency": Family(
        "counter",
        "The latency of outgoing requests (e.g. to a token exchange server, CA, etc.) in milliseconds.",
    ),
    "pilot_total_xds_rejects": Family("counter", "Total number of XDS responses rejected by proxy."),
    "pilot_xds_expired_nonce": Family("counter", "Total number of XDS requests with an expired nonce."),
    "pilot_xds_recv_max": Family("gauge", "The maximum size request we have received so far."),
    "process_cpu_seconds_total": Family("counter", "Total user and system CPU time spent in seconds."),
    "process_max_fds": Family("gauge", "Maximum number of open file descriptors."),
    "process_network_receive_bytes_total": Family(
        "counter", "Number of bytes received by the process over the network."
    ),
    "process_network_transmit_bytes_total": Family(
        "counter", "Number of bytes sent by the process over the network."
    ),
    "process_open_fds": Family("gauge", "Number of open file descriptors."),
    "process_resident_memory_bytes": Family("gauge", "Resident memory size in bytes."),
    "process_start_time_seconds": Family("gauge", "Start time of the process since unix epoch in seconds."),
    "process_virtual_memory_bytes": Family("gauge", "Virtual memory size in bytes."),
    "process_virtual_memory_max_bytes": Family(
        "gauge", "Maximum amount of virtual memory available in bytes."
    ),
    "scrape_failures_total": Family("counter", "The total number of failed scrapes."),
    "scrapes_total": Family("counter", "The total number of scrapes."),
    "startup_duration_seconds": Family("gauge", "The time from the process starting to being marked ready."),
    "wasm_cache_entries": Family("gauge", "number of Wasm remote fetch cache entries."),
    "wasm_cache_lookup_count": Family("counter", "number of Wasm remote fetch cache lookups."),
    "wasm_config_conversion_count": Family(
        "counter", "number of Wasm config conversion count and results, including success, and failures."
    ),
    "wasm_config_conversion_duration": Family(
        "histogram",
        "Total time in milliseconds istio-agent spends on converting remote load in Wasm config.",
    ),
    "wasm_remote_fetch_count": Family(
        "counter", "number of Wasm remote fetches and results, including success, and failures."
    ),
    "xds_proxy_requests": Family("counter", "The total number of Xds Proxy Requests"),
    "xds_proxy_responses": Family("counter", "The total number of Xds Proxy Responses"),
    # Only here: the tree of actors, as the supervisor sees it.
    "actor_descriptors": Family("gauge", "Open file descriptors of the actor's process."),
    "actor_heartbeat_age_seconds": Family("gauge", "Time since the actor answered a heartbeat; -1: never."),
    "actor_mailbox_depth": Family("gauge", "Messages that wait in the actor's mailbox."),
    "actor_private_memory_bytes": Family("gauge", "Memory of the actor's process that no other shares."),
    "actor_pss_bytes": Family("gauge", "Proportional set size of the actor's process."),
    "actor_ready": Family("gauge", "1 when the actor says that it serves."),
    "actor_restarts_total": Family("counter", "How often the actor was started again."),
    "cert_age_seconds": Family("gauge", "Time since the certificate became valid."),
    "cert_rotation_seconds": Family("gauge", "Time until the certificate is to be replaced."),
    "envoy_continued": Family("counter", "How often an Envoy that somebody had stopped was let go on."),
    "envoy_crash_loops": Family("counter", "How often Envoy failed beyond the budget of the window."),
    "envoy_epoch": Family("gauge", "Restart epoch of the newest Envoy."),
    "envoy_generations": Family("gauge", "How many Envoys live; two during a hot restart."),
    "envoy_restarts": Family("counter", "How often Envoy was started again after it had failed."),
    "hot_restart_failed": Family(
        "counter", "How often a hot restart was begun and its Envoy was never LIVE."
    ),
    "hot_restart_refused": Family("counter", "How often a hot restart was asked for and not begun."),
    "hot_restarts": Family("counter", "How many hot restarts were done."),
    "envoy_uptime_seconds": Family("gauge", "Time since the newest Envoy was started."),
    "ready": Family("gauge", "1 when the last question for readiness was answered with yes."),
    "sds_acks": Family("counter", "How many SDS responses Envoy accepted."),
    "xds_last_known_good_age_seconds": Family(
        "gauge", "Time since the last known good configuration was written last."
    ),
    "xds_last_known_good_bytes": Family("gauge", "Bytes of the last known good configuration on the disk."),
    "xds_last_known_good_responses": Family(
        "counter", "Responses that Envoy got from the last known good configuration."
    ),
    "xds_last_known_good_serving": Family(
        "gauge", "Streams of Envoy's that stand on the last known good configuration: 0 when all is live."
    ),
    "wasm_last_known_good_serving": Family(
        "gauge", "Wasm filters that are older than istiod's, whose modules cannot be had: 0 when none is."
    ),
    "supervisor_pss_bytes": Family("gauge", "Proportional set size of the supervisor's process."),
    "xds_accepted_age_seconds": Family("gauge", "Time since Envoy accepted this version from istiod."),
    "xds_acks": Family("counter", "How many responses of istiod's Envoy accepted."),
    "xds_nacks": Family("counter", "How many responses of istiod's Envoy rejected."),
}
