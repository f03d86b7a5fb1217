"""What the log has said since a moment, whichever process or thread wrote it.

pytest's capfd is for what has ended: it reads its file and then cuts it, and loses the line that a thread
writes between the two.
"""

from pilot_agent.log import recent_lines


class Said:
    """Begins where it is made; ask it with `in` as often as you like."""

    def __init__(self) -> None:
        self._last_before = recent_lines().splitlines(keepends=True)[-1:]

    def __contains__(self, text: str) -> bool:
        return text.encode() in self._since()

    def _since(self) -> bytes:
        lines = recent_lines()
        if self._last_before:
            _, is_there, since = lines.rpartition(self._last_before[0])
            return since if is_there else lines  # else so much was said that the place is gone
        return lines
