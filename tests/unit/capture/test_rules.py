"""What single features make, where no recording shows it."""

import pytest

from pilot_agent.capture.errors import ConfigurationError
from pilot_agent.capture.iptables_rules import build_rules
from pilot_agent.capture.nftables_rules import build_transaction, deletion
from pilot_agent.capture.options import CaptureOptions
from pilot_agent.capture.rules import RuleSet, restore_input
from tests.support.capture_golden import options_for


def v4(options: CaptureOptions) -> list[str]:
    return restore_input(rule for rule in build_rules(options) if rule.family == 4).splitlines()


def nft(options: CaptureOptions, table: str, chain: str) -> list[str]:
    head = f"rule inet istio-proxy-{table} {chain} "
    return [line.partition(head)[2] for line in build_transaction(options) if head in line]


def test_nothing_is_made_for_ipv6_without_an_address_of_it() -> None:
    rules = build_rules(options_for("-i", "10.0.0.0/8,fd00::/8", "-x", "fd01::/16", "-b", "*"))

    assert {rule.family for rule in rules} == {4}
    assert not any("fd0" in word for rule in rules for word in rule.words)


def test_blanks_in_a_list_stay_and_empty_items_go() -> None:
    rules = build_rules(options_for("-o", "x, y,,"))

    ports = [
        rule.words[3] for rule in rules if rule.words[2:3] == ("--dport",) and rule.chain == "ISTIO_OUTPUT"
    ]
    assert ports == ["x", "x", " y", " y"]


def test_a_value_with_braces_is_only_a_word() -> None:
    rules = RuleSet(ipv6=False)
    rules.append("nat", "OUTPUT", "-o {interface} -j RETURN", interface="{loopback}")

    assert rules.rules[0].words == ("-o", "{loopback}", "-j", "RETURN")


def test_another_mode_than_tproxy_is_redirect() -> None:
    expected = v4(options_for("-b", "*", "-m", "REDIRECT"))

    for mode in ("", "NONE", "FOO", "tproxy"):
        assert v4(options_for("-b", "*", "-m", mode)) == expected


def test_an_address_with_mapped_ipv4_is_printed_as_go_prints_it() -> None:
    rules = build_rules(options_for("-i", "::ffff:1.2.3.4/120,::127.0.0.53/128", ipv6=True))

    made = [rule.words for rule in rules if rule.family == 6 and rule.target == "ISTIO_REDIRECT"]
    assert made == [
        ("-d", "::ffff:1.2.3.4/120", "-j", "ISTIO_REDIRECT"),
        ("-d", "::7f00:35/128", "-j", "ISTIO_REDIRECT"),
    ]


def test_dns_without_a_server_is_off_altogether() -> None:
    assert v4(options_for("--redirect-dns")) == v4(options_for())
    assert build_transaction(options_for("--redirect-dns")) == build_transaction(options_for())


def test_capturing_all_dns_without_redirecting_dns_does_nothing() -> None:
    assert v4(options_for("--capture-all-dns")) == v4(options_for())


def test_nft_jumps_to_no_chain_that_is_not_made() -> None:
    """A server of IPv6 on a machine without IPv6: nft refuses a jump to a chain that does not exist."""
    for words in (("-i", "*"), ("-m", "TPROXY"), ("-b", "*", "-m", "TPROXY", "--drop-invalid")):
        lines = build_transaction(options_for("--redirect-dns", *words, dns_servers=["fd00::a"]))
        for line in (line for line in lines if " jump " in line):
            table, target = line.split()[3], line.split()[-1]
            assert f"add chain inet {table} {target}" in lines


def test_nft_makes_a_rule_of_an_address_once_a_family_and_others_once() -> None:
    options = options_for("-i", "*", "-u", "7", "-g", "8", ipv6=True)

    to_self = "tcp dport != 15008 {} counter jump istio-in-redirect"
    lo = "oifname lo meta l4proto tcp"
    assert nft(options, "nat", "istio-output") == [
        "oifname lo ip saddr 127.0.0.6/32 counter return",
        "oifname lo ip6 saddr ::6/128 counter return",
        f"{lo} ip daddr != 127.0.0.1/32 {to_self.format('skuid 7')}",
        f"{lo} ip6 daddr != ::1/128 {to_self.format('skuid 7')}",
        "oifname lo skuid != 7 counter return",
        "skuid 7 counter return",
        f"{lo} ip daddr != 127.0.0.1/32 {to_self.format('skgid 8')}",
        f"{lo} ip6 daddr != ::1/128 {to_self.format('skgid 8')}",
        "oifname lo skgid != 8 counter return",
        "skgid 8 counter return",
        "ip daddr 127.0.0.1/32 counter return",
        "ip6 daddr ::1/128 counter return",
        "counter jump istio-redirect",
    ]


def test_nft_captures_all_dns_in_zones_of_its_own() -> None:
    options = options_for("--redirect-dns", "--capture-all-dns", "-u", "7", "-g", "8")

    assert nft(options, "nat", "istio-output-dns") == [
        "meta l4proto tcp tcp dport 53 counter redirect to :15053",
        "udp dport 53 counter redirect to :15053",
    ]
    assert nft(options, "raw", "istio-output-dns")[-1] == "udp dport 53 counter ct zone set 2"
    assert nft(options, "raw", "istio-inbound") == ["udp sport 53 counter ct zone set 1"]


def test_nft_inserts_only_where_there_is_something_to_be_before() -> None:
    options = options_for("-k", "net1,net2", "-i", "*")

    made = [line for line in build_transaction(options) if " prerouting " in line and "iifname" in line]
    table = "rule inet istio-proxy-nat prerouting"
    assert made == [
        f"add {table} iifname net1 counter return",
        f"insert {table} index 0 iifname net2 counter return",
        f"insert {table} index 0 iifname net1 counter jump istio-redirect",
        f"insert {table} index 0 iifname net2 counter jump istio-redirect",
    ]


def test_the_tables_of_nft_are_deleted_without_asking_whether_they_are_there() -> None:
    assert deletion()[:2] == ["add table inet istio-proxy-nat", "delete table inet istio-proxy-nat"]
    assert len(deletion()) == 6


@pytest.mark.parametrize(
    ("flag", "value", "text"),
    [
        ("-i", "10.0.0.0", "netip.ParsePrefix(\"10.0.0.0\"): no '/'"),
        ("-i", "10.0.0.0/33", 'netip.ParsePrefix("10.0.0.0/33"): prefix length out of range'),
        ("-i", "10.0.0.0/8, 11.0.0.0/8", 'ParseAddr(" 11.0.0.0"): unable to parse IP'),
        ("-i", "10.0.0.0/08", 'bad bits after slash: "08"'),
        ("-i", "*,10.0.0.0/8", "netip.ParsePrefix(\"*\"): no '/'"),
        ("-x", "fe80::1%eth0/64", "IPv6 zones cannot be present in a prefix"),
        ("-x", "*", "invalid value for OUTBOUND_IP_RANGES_EXCLUDE"),
    ],
)
def test_a_wrong_prefix_is_refused_and_its_flag_named(flag: str, value: str, text: str) -> None:
    name = {"-i": "--istio-service-cidr", "-x": "--istio-service-exclude-cidr"}[flag]
    with pytest.raises(ConfigurationError) as caught:
        options_for(flag, value)

    assert text in str(caught.value)
    assert name in str(caught.value)


def test_more_groups_than_a_rule_of_nftables_has_room_for_are_one_set() -> None:
    def rule(count: int) -> str:
        groups = ",".join(map(str, range(count)))
        options = options_for(environment={"ISTIO_OUTBOUND_OWNER_GROUPS": groups})
        return next(
            line
            for line in build_transaction(options)
            if "skgid != 0 " in line or ("{" in line and "skgid" in line)
        )

    assert rule(63).endswith(
        "istio-output " + "".join(f"skgid != {n} " for n in range(63)) + "counter return"
    )
    assert rule(64).endswith(f"istio-output skgid != {{ {', '.join(map(str, range(64)))} }} counter return")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("-o", "80\nCOMMIT"), "--istio-local-outbound-ports-exclude"),
        (("--native-nftables", "-c", "eth0; flush ruleset"), "--istio-exclude-interfaces"),
        (("-u", "0\x00"), "--proxy-uid"),
        (("-c", 'eth0"'), "--istio-exclude-interfaces"),
    ],
)
def test_a_value_that_would_end_its_rule_is_refused_and_its_flag_named(
    words: tuple[str, ...], name: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}: .* cannot stand in a rule"):
        options_for(*words)
