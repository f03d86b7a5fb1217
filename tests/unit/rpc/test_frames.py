"""Frames out of pieces: whatever the pieces, the same bytes, and an end of the stream where it was."""

from hypothesis import given
from hypothesis import strategies as st

from pilot_agent.rpc import frames
from pilot_agent.rpc.frames import FrameReader, Head

KINDS = (frames.DATA, frames.HEADERS, frames.WINDOW_UPDATE)
SENT = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.sampled_from((0, frames.END_STREAM, frames.PADDED, frames.PADDED | frames.END_STREAM)),
        st.binary(max_size=40),
    ),
    max_size=8,
)


@given(sent=SENT, cuts=st.lists(st.integers(1, 30), min_size=1))
def test_cut_off_data_says_the_same(sent: list[tuple[int, int, bytes]], cuts: list[int]) -> None:
    wire = b"".join(frames.frame(kind, flags, 1, payload) for kind, flags, payload in sent)
    reader, at, turn = FrameReader(), 0, 0
    pieces: list[tuple[Head, bytes]] = []
    while at < len(wire):
        size = cuts[turn % len(cuts)]
        turn += 1
        pieces += [(head, bytes(payload)) for head, payload in reader.take(wire[at : at + size])]
        at += size
    assert b"".join(payload for _, payload in pieces) == b"".join(payload for _, _, payload in sent)
    ends = [head for head, _ in pieces if head.flags]
    assert [(head.kind, head.flags) for head in ends] == [(kind, flags) for kind, flags, _ in sent if flags]
    for head, payload in pieces:
        assert head.length_bytes == len(payload)
        assert head.stream == 1
    others = [(head.kind, payload) for head, payload in pieces if head.kind != frames.DATA]
    assert others == [(kind, payload) for kind, _, payload in sent if kind != frames.DATA]
    padded = [payload for head, payload in pieces if head.flags & frames.PADDED]
    assert padded == [payload for _, flags, payload in sent if flags & frames.PADDED]
