"""Personal data, marked where it is declared: `Annotated[str, Personal("email address", end="…")]` in a contract, and
`Column(…, info=Personal(…).info)` in a table.

`docs/personal-data.md` is written from the marks. An event refuses a marked field in clear, a message's text and a log
line leave it out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import SecretStr, StringConstraints
from pydantic.fields import FieldInfo


@dataclass(frozen=True, slots=True)
class Personal:
    """A mark: what the data is, and when it ends. `is_ciphertext` where the value is sealed already."""

    what: str
    end: str
    is_ciphertext: bool = False

    @property
    def info(self) -> dict[str, Any]:
        """The `info` of a column that holds it."""
        return {"personal": self}


Ciphertext = Annotated[str, StringConstraints(pattern=r"^clv1:\d+:[A-Za-z0-9+/]+={0,2}$")]
"""A text in the vault's format, which no text in clear has."""

PERSON = Personal(
    "id of a person, derived from their identity at the provider", "with the row; entries of the log keep it"
)
CLIENT = Personal("network address and User-Agent of a sign-in", "with the session; in the log as `sealed` below")
SEALED_CLIENT = Personal(CLIENT.what, "unreadable once the realm's data keys are destroyed", is_ciphertext=True)


def mark(field: FieldInfo) -> Personal | None:
    """The mark of a message's field."""
    return next((part for part in (*field.metadata, *_parts(field.annotation)) if isinstance(part, Personal)), None)


def is_clear(field: FieldInfo) -> bool:
    """Whether a marked field would stand in clear in a message that is not sealed as a whole."""
    found = mark(field)
    return found is not None and not found.is_ciphertext


def is_secret(field: FieldInfo) -> bool:
    """Whether the field's type prints as stars."""
    return any(isinstance(part, type) and issubclass(part, SecretStr) for part in _parts(field.annotation))


def _parts(annotation: Any) -> Iterator[Any]:
    """An annotation and all that stands in it."""
    yield annotation
    for part in (*get_args(annotation), *getattr(annotation, "__metadata__", ())):
        yield from _parts(part)
