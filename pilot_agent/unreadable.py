"""What decoding bytes of others with msgspec can raise."""

from typing import Final

import msgspec

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""Its own errors, and two of Python's that it lets through: text that is no UTF-8, and too much nesting."""
