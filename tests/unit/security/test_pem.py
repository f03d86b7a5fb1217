from pilot_agent.security.pem import assemble_chain, blocks, merge_bundles


def block(text: str, kind: str = "CERTIFICATE") -> str:
    return f"-----BEGIN {kind}-----\n{text}\n-----END {kind}-----"


A, B, C = block("aaaa"), block("bbbb"), block("cccc")


def test_a_chain_gets_line_feeds_where_they_lack_and_none_at_its_end() -> None:
    assert assemble_chain([A, B + "\n", C]) == f"{A}\n{B}\n{C}"
    assert assemble_chain([A + "\n"]) == A + "\n"
    assert assemble_chain([]) == ""


def test_blocks_are_found_between_comments_and_by_kind() -> None:
    text = f"# root of b\n{B}\nsubject=x\n{block('k', 'EC PRIVATE KEY')}\n\n{A}"
    assert blocks(text, "CERTIFICATE") == [B, A]
    assert len(blocks(text)) == 3
    assert blocks("-----BEGIN CERTIFICATE-----\nno end") == []


def test_merged_bundles_have_each_block_once_in_sorted_order_without_a_last_line_feed() -> None:
    assert merge_bundles(f"{B}\n", [f"{C}\n{A}\n", B]) == f"{A}\n{B}\n{C}"
    assert merge_bundles(f"{B}\n", []) == B
