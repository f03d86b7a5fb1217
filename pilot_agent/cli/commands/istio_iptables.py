"""`istio-iptables`: makes the rules that bring a pod's traffic to the proxy; the init container calls it."""

from pilot_agent.cli.capture import FLAGS, run
from pilot_agent.cli.command import Command

COMMAND = Command(
    use="istio-iptables",
    short="Set up the capture of traffic with iptables or nftables",
    long="Makes, compares or removes the rules that bring the traffic of this network namespace to Envoy.",
    run=run,
    flags=FLAGS,
)
