"""The bounds of a body's lists and maps, checked before anything in them is looked at.

A validator looks at every item before it finds that there are too many, and remembers what is wrong with each: a
mebibyte of `{}` would cost it a hundred megabytes. Here only lengths are read, those of all items of a list at once.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, get_args, get_origin

from annotated_types import MaxLen
from pydantic.fields import FieldInfo

from causeloop_common.contracts.base import Message
from causeloop_common.errors import InvalidInput

_Check = Callable[[Sequence[Any]], None]
"""InvalidInput where one of these values is too long. One of another type passes: validation refuses it."""


class Bounds:
    """The bounds of the fields of one kind of message; TypeError for a list or map that has none."""

    def __init__(self, message: type[Message]) -> None:
        self._fields = _of_fields(message, "")

    def check(self, fields: dict[str, Any]) -> None:
        """InvalidInput for a list, map or object in these fields that is too long."""
        for name, check in self._fields.items():
            if name in fields:
                check([fields[name]])


def _of_fields(message: type[Message], prefix: str) -> dict[str, _Check]:
    found = {name: _of(field.annotation, field.metadata, prefix + name) for name, field in message.fields().items()}
    return {name: check for name, check in found.items() if check is not None}


def _of(annotation: Any, metadata: Iterable[Any], place: str) -> _Check | None:
    """The check of a type; None for one that holds neither lists nor objects."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        given = [part for one in arguments[1:] for part in (one.metadata if isinstance(one, FieldInfo) else [one])]
        return _of(arguments[0], [*metadata, *given], place)
    if isinstance(annotation, type) and issubclass(annotation, Message):
        return _of_objects(len(annotation.fields()), _of_fields(annotation, f"{place}."), place)
    if origin in (list, dict):
        most = next((one.max_length for one in metadata if isinstance(one, MaxLen)), None)
        if most is None:
            raise TypeError(f"'{place}' has no bound on its length.")
        return _of_objects(most, {}, place) if origin is dict else _of_lists(most, _of(arguments[0], (), place), place)
    kinds = (_of(argument, metadata, place) for argument in arguments if argument is not type(None))
    return next((kind for kind in kinds if kind is not None), None)


def _of_lists(most: int, inner: _Check | None, place: str) -> _Check:
    def check(values: Sequence[Any]) -> None:
        for value in values:
            if type(value) is list:
                if len(value) > most:
                    raise InvalidInput.of(**{place: f"has {len(value)} items; at most {most} are taken"})
                if inner is not None:
                    inner(value)

    return check


def _of_objects(most: int, fields: dict[str, _Check], place: str) -> _Check:
    def check_objects(values: Sequence[Any]) -> None:
        if (longest := max(map(len, values), default=0)) > most:
            raise InvalidInput.of(**{place: f"has {longest} names; at most {most} are taken"})
        for name, nested in fields.items():
            if inner := [value[name] for value in values if name in value]:
                nested(inner)

    def check(values: Sequence[Any]) -> None:
        try:
            check_objects(values)
        except TypeError:  # not all of them are objects
            check_objects([value for value in values if type(value) is dict])

    return check
