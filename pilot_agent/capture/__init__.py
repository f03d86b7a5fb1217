"""Traffic capture: the rules that bring a pod's packets to the proxy, for iptables and for nftables.

    from pilot_agent.capture.session import run
    status = run(CaptureSettings(...), os.environ)

`iptables_rules` and `nftables_rules` are pure: configuration in, rules out. `verdict`, `ours` and `changes`
decide, also purely, what differs from what is there. `backend`, `apply`, `routes` and `validation` are the
edge that asks and changes the kernel.
"""
