"""Whatever stands in the downward API's files: pairs, or one clear error."""

from hypothesis import given
from hypothesis import strategies as st

from pilot_agent.proxyconfig import pod_files

_KEYS = st.text(st.characters(codec="utf-8", exclude_characters="=\n\r"), min_size=1, max_size=8)
_VALUES = st.text(st.characters(codec="utf-8"), max_size=12)


def quoted(text: str) -> str:
    """Return a text as Go's strconv.Quote does, with the long escapes for all that is not plain."""
    plain = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return "".join(
        plain.get(letter) or (letter if letter.isprintable() else f"\\U{ord(letter):08x}") for letter in text
    )


@given(st.dictionaries(_KEYS, _VALUES, max_size=5))
def test_what_a_kubelet_writes_is_read_back(pairs: dict[str, str]) -> None:
    text = "".join(f'{key}="{quoted(value)}"\n' for key, value in pairs.items())
    assert pod_files.parse(text) == pairs


@given(st.text(st.sampled_from('ab="\\\n\r`xuU0179éf{}: '), max_size=40))
def test_any_text_is_pairs_or_one_error_that_names_the_line(text: str) -> None:
    found, said = dict[str, str](), ""
    try:
        found = pod_files.parse(text)
    except ValueError as error:
        said = str(error)
    assert not said or said.startswith("failed to unquote the value of ")
    assert len(found) <= text.count("=")


@given(st.binary(max_size=30))
def test_escaped_bytes_that_are_no_utf_8_become_the_replacement_character(data: bytes) -> None:
    text = "".join(f"\\x{byte:02x}" for byte in data)
    assert pod_files.parse(f'k="{text}"') == {"k": data.decode("utf-8", "replace")}
