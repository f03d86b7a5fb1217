import itertools
import socket
import threading
from collections import Counter

import pytest

from pilot_agent.envoy.steering import Listener, Span, closing_spans, let_go, steer


@pytest.mark.parametrize(("old", "new"), [*itertools.product(range(1, 6), range(1, 6))])
def test_no_old_socket_can_be_chosen_while_they_are_given_up_one_by_one(old: int, new: int) -> None:
    group = [f"old{n}" for n in range(old)] + [f"new{n}" for n in range(new)]
    for span in closing_spans(old, new):
        assert not any(name.startswith("old") for name in chosen(group, span))
        at = next(place for place, name in enumerate(group) if name.startswith("old"))
        last = group.pop()
        if at < len(group):
            group[at] = last
        # With a single new socket there is an instant in which the hash chooses among all that are left.
        assert new == 1 or not any(name.startswith("old") for name in chosen(group, span))
    assert {*group} == {f"new{n}" for n in range(new)}


def chosen(group: list[str], span: Span) -> set[str]:
    """Return what the kernel may choose: beyond the end it falls back to the hash over all."""
    places = range(span.first, span.first + span.count)
    return {name for place in places for name in ([group[place]] if place < len(group) else group)}


class Group:
    """Listening sockets on one port, each with a thread that counts and echoes."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.port = 0

    def listen(self, name: str, count: int) -> list[socket.socket]:
        made = []
        for _ in range(count):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(("127.0.0.1", self.port))
            self.port = one.getsockname()[1]
            one.listen(64)
            threading.Thread(target=self._serve, args=(one, name), daemon=True).start()
            made.append(one)
        return made

    def _serve(self, listening: socket.socket, name: str) -> None:
        listening.settimeout(0.02)  # a thread that waits in accept would keep a closed socket alive
        while listening.fileno() >= 0:
            try:
                end, _ = listening.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self.counts[name] += 1
            with end:
                end.sendall(end.recv(1))

    def ask(self, times: int) -> Counter[str]:
        """Return who answered."""
        self.counts.clear()
        for _ in range(times):
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
                client.sendall(b"x")
                assert client.recv(1) == b"x"
        return self.counts


def test_new_connections_go_to_the_new_sockets_and_stay_there_when_the_old_ones_are_gone() -> None:
    group = Group()
    old = group.listen("old", 2)
    new = group.listen("new", 2)
    assert group.ask(60)["old"] > 0
    lent = Listener("tcp://", tuple(each.dup() for each in old))
    steer(lent, Span(2, 2))
    assert group.ask(60) == {"new": 60}
    for each in old:
        each.close()
    let_go(lent, new=2)
    assert group.ask(60) == {"new": 60}
    for each in new:
        each.close()
