"""`istio-clean-iptables`: removes all rules of ours; installations up to 1.24 call it."""

from pilot_agent.cli.capture import CLEAN_FLAGS, run_clean
from pilot_agent.cli.command import Command

COMMAND = Command(
    use="istio-clean-iptables",
    short="Remove the capture of traffic",
    long="Removes every rule that Istio made in this network namespace, whichever release and flags made it.",
    run=run_clean,
    flags=CLEAN_FLAGS,
    hidden=True,  # gone from the reference, whose help does not show it
)
