"""Go's readings and spellings of simple values, which the reference's texts are made of.

Light on purpose: `pilot-agent wait` and `request` start anew for every hook.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_BOOLS: Final = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "FALSE", "false", "False"), False
)
_INTEGER_CHARACTERS: Final = frozenset("0123456789abcdefABCDEFxXoO_+-")
_ESCAPES: Final = {
    "\a": r"\a",
    "\b": r"\b",
    "\f": r"\f",
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\v": r"\v",
    "\\": r"\\",
}


def parse_bool(text: str) -> bool:
    """Return a Go bool.

    Raises:
        ValueError: the text is none of the twelve accepted ones; the message is Go's own.
    """
    if text not in _BOOLS:
        raise ValueError(f"strconv.ParseBool: parsing {quote(text)}: invalid syntax")
    return _BOOLS[text]


def parse_integer(text: str, bits: int = 64) -> int:
    """Return a Go integer of a flag: decimal, `0x10`, `0o17` or `017`, `0b1`, `1_000`, with a sign.

    Raises:
        ValueError: no such integer, or none of `bits` bits; the message is Go's own.
    """
    try:
        value = _base_zero(text)
    except ValueError:
        raise ValueError(f"strconv.ParseInt: parsing {quote(text)}: invalid syntax") from None
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise ValueError(f"strconv.ParseInt: parsing {quote(text)}: value out of range")
    return value


def parse_unsigned(text: str, bits: int = 64) -> int:
    """Return a Go unsigned integer of a flag.

    Raises:
        ValueError: no such integer, or none of `bits` bits; the message is Go's own.
    """
    try:
        value = _base_zero(text)
    except ValueError:
        value = -1
    if value < 0 or text[:1] in ("+", "-"):
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: invalid syntax")
    if value >= 1 << bits:
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: value out of range")
    return value


def quote(text: str, mark: str = '"') -> str:
    r"""Return `text` as Go's `%q` prints it; `mark` is the quotation mark, `'` for a single character.

    Bytes of the command line that are no UTF-8 (surrogates in Python) are printed as `\xNN`.
    """
    return mark + "".join(_quoted(character, mark) for character in text) + mark


def _base_zero(text: str) -> int:
    if not _INTEGER_CHARACTERS.issuperset(text):  # int() would take blanks and other scripts' digits
        raise ValueError(text)
    digits = text.removeprefix("-") if text.startswith("-") else text.removeprefix("+")
    if digits[:1] in ("+", "-"):
        raise ValueError(text)
    octal = digits[:1] == "0" and digits[1:2] in tuple("01234567_")
    value = int("0o" + digits[1:] if octal else digits, 0)
    return -value if text.startswith("-") else value


def _quoted(character: str, mark: str) -> str:
    code = ord(character)
    if character == mark:
        return "\\" + mark
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
