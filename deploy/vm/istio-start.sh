#!/bin/bash
# Starts the agent on a virtual machine: the capture rules first, then `pilot-agent proxy` as the proxy's user.
#
#   istio-start.sh             rules, then the agent (what the unit calls)
#   istio-start.sh run         the agent alone
#   istio-start.sh init|-p …   the rules alone, made from these words
#   istio-start.sh clean       takes the rules away
#
# Settings come from sidecar.env, then cluster.env; what stands there is exported, and the latter wins.
# Only the agent's log files and the programs' own places are written. Every path is relative to /.
set -eu

read_settings() {
    local file=$1
    if [ -r "$file" ]; then
        set -a
        # shellcheck disable=SC1090
        . "$file"
        set +a
    fi
}

rules() {
    if [ "${ISTIO_CUSTOM_IP_TABLES:-}" != "true" ]; then
        pilot-agent istio-iptables --cleanup-only
        pilot-agent istio-iptables "$@"
    fi
}

control_plane() {
    if [ -n "${CA_ADDR:-}" ]; then
        echo "$CA_ADDR"
    elif [ -n "${PILOT_ADDRESS:-}" ]; then
        echo "$PILOT_ADDRESS"
    else
        echo "istiod.${ISTIO_SYSTEM_NAMESPACE:-istio-system}.svc:${ISTIO_PILOT_PORT:-15012}"
    fi
}

# What the mesh's ProxyConfig says for this machine, as YAML; it begins with a new line.
proxy_config() {
    if [ -n "${PROXY_CONFIG:-}" ]; then
        printf '%s\n' "$PROXY_CONFIG"
    else
        printf '\nserviceCluster: %s\ncontrolPlaneAuthPolicy: %s\n' \
            "${ISTIO_SERVICE:-istio-proxy}" "${ISTIO_CP_AUTH:-MUTUAL_TLS}"
    fi
    if [ -n "${PILOT_ADDRESS:-}" ]; then
        printf 'discoveryAddress: %s\n' "$PILOT_ADDRESS"
    fi
}

# Becomes the agent; as another user by setpriv, which works where sudo does not (no new privileges). The
# process stays the one that the service manager started, so its signals and its notifications fit.
become_agent() {
    local user=$1
    # shellcheck disable=SC2086  # the flags are words
    if [ "$(id -un)" = "$user" ]; then
        exec pilot-agent proxy ${ISTIO_AGENT_FLAGS:-}
    fi
    local logs=${ISTIO_LOG_DIR:-./var/log/istio}
    mkdir -p "$logs"
    # shellcheck disable=SC2086
    exec setpriv --reuid="$user" --regid="$user" --init-groups pilot-agent proxy ${ISTIO_AGENT_FLAGS:-} \
        >>"$logs/istio.log" 2>>"$logs/istio.err.log"
}

cd /
read_settings "${ISTIO_SIDECAR_CONFIG:-./var/lib/istio/envoy/sidecar.env}"
read_settings "${ISTIO_CLUSTER_CONFIG:-./var/lib/istio/envoy/cluster.env}"

# Both are read by istio-iptables and by the agent.
if [ -z "${ISTIO_SVC_IP:-}" ]; then
    ISTIO_SVC_IP=$(hostname --all-ip-addresses | cut -d ' ' -f 1)
fi
export POD_NAME="${POD_NAME:-$(hostname -s)}"
export POD_NAMESPACE="${POD_NAMESPACE:-${ISTIO_NAMESPACE:-default}}"
export INSTANCE_IP="${INSTANCE_IP:-$ISTIO_SVC_IP}"

case "${1:-}" in
clean)
    exec pilot-agent istio-iptables --cleanup-only
    ;;
init | -p)
    rules "$@"
    exit 0
    ;;
run) ;;
*) rules ;;
esac

user=${EXEC_USER:-istio-proxy}
if [ "${ISTIO_INBOUND_INTERCEPTION_MODE:-}" = "TPROXY" ]; then
    user=root # binding foreign addresses needs it; the agent takes the group istio-proxy by itself
fi
CA_ADDR=$(control_plane)
PROXY_CONFIG=$(proxy_config && printf x) # x: the shell would cut the last new lines
export CA_ADDR PROXY_CONFIG=${PROXY_CONFIG%x}
export PROV_CERT="${PROV_CERT-./etc/certs}" OUTPUT_CERTS="${OUTPUT_CERTS-./etc/certs}"
become_agent "$user"
