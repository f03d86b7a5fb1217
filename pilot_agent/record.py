"""Small values for programs that must start quickly: NamedTuple to the type checker, and no import.

    class Answer(Record):
        status: int
        body: bytes = b""

`typing` and the `collections` that it loads were two thirds of what a hook imported. So what hooks load
imports them for the type checker alone, which takes a module's own TYPE_CHECKING for true.
"""

TYPE_CHECKING = False

__all__ = ["Record"]

if TYPE_CHECKING:
    from typing import NamedTuple as Record
else:
    from _operator import itemgetter  # `operator` itself is written in Python

    class Record(tuple):  # noqa: SLOT001  # its subclasses have properties alone
        """Fields by position or by name, defaults from the class."""

        def __init_subclass__(cls):  # noqa: ANN204  # all of this is checked as NamedTuple's
            cls._fields = tuple(cls.__annotations__)
            cls._defaults = {name: cls.__dict__[name] for name in cls._fields if name in cls.__dict__}
            for at, name in enumerate(cls._fields):
                setattr(cls, name, property(itemgetter(at)))

        def __new__(cls, *values, **named):  # noqa: ANN002, ANN003, ANN204
            given = dict(zip(cls._fields, values, strict=False)) | named
            whole = cls._defaults | given
            if len(given) != len(values) + len(named) or whole.keys() != {*cls._fields}:
                raise TypeError(f"{cls.__name__} takes {cls._fields}, got {values} and {named}")
            return tuple.__new__(cls, [whole[name] for name in cls._fields])

        def _asdict(self):  # noqa: ANN202
            return dict(zip(self._fields, self, strict=True))
