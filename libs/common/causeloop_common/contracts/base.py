"""The messages between services: a `Command[Reply]` asks and waits, an `Event` announces an act.

The class is the message's whole declaration. Its subject comes from its module, which is its owner, and its name:
`PutSecret` in `vault/` is `cmd.vault.put_secret`. The class line has the permission that it needs and the services
that may send it. The gateway's routes, the services' checks, the bus permissions and the documents all read them here.

Rules of change: a command refuses unknown fields, an event's reader ignores them; fields are only added and
optional; another meaning is another name, and a retired name stays in `RETIRED`. `make schemas` writes the JSON
Schema of every message and tests compare.
"""

import re
from collections.abc import Iterator
from types import ModuleType
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    SecretStr,
    SerializationInfo,
    StringConstraints,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue, WithJsonSchema
from pydantic_core import CoreSchema

from causeloop_common import ids
from causeloop_common.contracts.limits import Limit
from causeloop_common.contracts.names import visible
from causeloop_common.contracts.personal import is_clear, mark

ReplyT = TypeVar("ReplyT", bound="Message")

COMMAND_TIMEOUT_SECONDS = 5.0
EVENT_BYTES = 40 * 1024
PAGE_BYTES = 512 * 1024
_GATEWAY_ONLY = frozenset({"gateway"})
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


PERSONAL = "[personal]"
"""The placeholder of personal data in logs and representations."""

_CLEAR = object()
"""The context of serialisation in which a secret is written in clear."""


def _write_secret(value: SecretStr, info: SerializationInfo) -> str:
    return value.get_secret_value() if info.context is _CLEAR else str(value)  # stars


SEALED_CHARS = 65_536

Sealed = Annotated[
    SecretStr,
    Field(max_length=SEALED_CHARS),
    PlainSerializer(_write_secret, return_type=str),
    WithJsonSchema({"type": "string", "format": "password", "maxLength": SEALED_CHARS, "x-sealed": True}),
]
"""A secret text, at most 64 Ki characters. A message that holds one, however deep, crosses the bus as one ciphertext.
In logs, representations and the idempotency table it is stars."""


def example_id(prefix: str) -> str:
    """The TypeID of its kind that stands in examples."""
    return f"{prefix}_{_TENANTS.get(prefix, '01m8dsrxbsf35reya2xagjjevc')}"


_TENANTS = {"ws": "3rf1w7gy3rh1w9gy3rf1w7gy3r", "usr": "2h0eg30cktgbqvs80a30kq0sre"}  # a bit distinguishes them


def _typeid(*prefixes: str, of: str) -> Any:
    """An annotated `str` that is a TypeID of one of the kinds."""

    def check(value: str) -> str:
        ids.decode(value, *prefixes)
        if "ws" in prefixes or "usr" in prefixes:
            ids.tenant_uuid(value)
        return value

    pattern = f"^({'|'.join(prefixes)})_{ids.SUFFIX}$"
    schema = {
        "type": "string",
        "pattern": pattern,
        "description": f"The id of {of}.",
        "examples": [example_id(prefixes[0])],
    }
    return Annotated[str, Field(max_length=64), AfterValidator(check), WithJsonSchema(schema)]


WorkspaceId = _typeid("ws", of="a workspace")
TenantId = _typeid("ws", "usr", of="a workspace, or of a person for their own realm")
PersonId = _typeid("usr", of="a person")
PrincipalId = Annotated[
    str,
    Field(max_length=64),
    AfterValidator(lambda value: (ids.principal_kind(value), value)[1]),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": rf"^(?:(?:usr|sva)_{ids.SUFFIX}|svc_[a-z]{{2,32}})$",
            "description": "The id of a person, of a service account, or the name of a service.",
            "examples": [example_id("usr")],
        }
    ),
]
SessionId = _typeid("ses", of="a session")
TokenId = _typeid("tok", of="a personal access token")
SecretId = _typeid("sec", of="a secret")
KeyId = _typeid("key", of="a named key")
EventId = _typeid("evt", of="an event")
JobId = _typeid("job_vault", "job_auth", "job_tenancy", "job_audit", of="a job; it names the service that does it")

Label = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=120, pattern=r"^[^\x00-\x1f\x7f]*$"),
    AfterValidator(visible),
]
"""The name that somebody gave to something, for people: trimmed, in one form, and every character of it can be seen.
Each name that is no identifier has this type, in every service."""

Timestamp = Annotated[AwareDatetime, Field(examples=["2026-01-31T12:00:00Z"])]

Version = Annotated[int, Field(description="The version's number, from 1.", examples=[1])]

Epoch = Annotated[
    int,
    Field(
        ge=1,
        description="The log's epoch: 1, unless it could not continue what was signed of it and an operator opened "
        "another one.",
        examples=[1],
    ),
]

LATER_EPOCH: int = Field(default=1, exclude_if=lambda epoch: epoch == 1)
"""The field of an `Epoch` between services: left out in the first, so that a reader of an earlier version reads it."""

EXAMPLE_HASH = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$"), Field(examples=[EXAMPLE_HASH])]
"""A SHA-256 hash in lower-case hex."""


def _is_secret(annotation: Any) -> bool:
    """Whether a type holds a `Sealed` text anywhere inside: `Sealed | None`, a list, a nested message."""
    if isinstance(annotation, type) and issubclass(annotation, SecretStr | Message):
        return issubclass(annotation, SecretStr) or annotation.is_sealed
    return any(map(_is_secret, get_args(annotation)))


class Message(BaseModel):
    """Base of all messages: immutable, unknown fields refused, inputs never repeated in errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        ser_json_inf_nan="strings",
        allow_inf_nan=False,
        serialize_by_alias=True,  # a field may have a name that Python keeps for itself, such as `from`
    )

    is_sealed: ClassVar[bool] = False
    """Whether it crosses the bus as one ciphertext: if a field holds a secret, or the class sets it."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if not cls.__pydantic_complete__:
            raise TypeError(f"{cls.__name__} has a field of a type that comes later: it might hold a secret.")
        cls.is_sealed = cls.is_sealed or any(_is_secret(field.annotation) for field in cls.model_fields.values())

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        """The fields by the names they have in JSON."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}

    @classmethod
    def of(cls, record: object, **more: Any) -> Self:
        """The message whose fields are the record's attributes of the same names; `more` has those that it lacks."""
        found = {name: getattr(record, name) for name in cls.__pydantic_fields__ if name not in more}
        return cls.model_validate(found | more)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, value if name is None or mark(type(self).model_fields[name]) is None else PERSONAL

    def to_json(self) -> bytes:
        """JSON with the secrets in clear: to be sealed, or for the client who may see them."""
        return self.__pydantic_serializer__.to_json(self, context=_CLEAR)

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """The message in JSON, read strictly: a number is not a text. ValidationError when it is not this message."""
        return cls.model_validate_json(body, strict=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler(schema)
        definition = handler.resolve_ref_schema(described)
        if cls.is_sealed:
            definition["x-sealed"] = True
        if handler.mode == "serialization":  # a field that is left out when it is None is never null
            for name in (name for name, field in cls.fields().items() if field.exclude_if is not None):
                optional = definition["properties"][name]
                if "anyOf" not in optional:  # it is left out at another value, which its default is
                    continue
                definition["properties"][name] = {**optional.pop("anyOf")[0], **optional}
                del definition["properties"][name]["default"]
        return described


class Command(Message, Generic[ReplyT]):
    """A question with a reply: `class PutSecret(Command[SecretView], permission=Permission.SECRETS_WRITE)`.

    `issuers` are the services that may send it. `keyed` is False where an Idempotency-Key is ignored: the command
    changes nothing, or a retry does no harm, or its answer must not be kept. `timeout` is the deadline in seconds.
    `limit` is the rate at which clients may send it, besides the limits of all commands. `step_up` asks for a sign-in
    that is fresh and strong enough, for what is grave and cannot be undone.
    """

    service: ClassVar[str]
    operation: ClassVar[str]
    subject: ClassVar[str]
    permission: ClassVar[str]
    issuers: ClassVar[frozenset[str]]
    keyed: ClassVar[bool]
    timeout: ClassVar[float]
    rate_limit: ClassVar[Limit | None]
    step_up: ClassVar[bool]
    reply: ClassVar[type[Message]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # The class arguments are this class's own; pydantic would take them for configuration.
        super().__init_subclass__()

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        *,
        permission: str | None = None,
        issuers: frozenset[str] = _GATEWAY_ONLY,
        keyed: bool = True,
        timeout: float = COMMAND_TIMEOUT_SECONDS,
        limit: Limit | None = None,
        step_up: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if permission is None:  # Command[Reply] itself, on the way to a command
            return
        (base,) = (base for base in cls.__bases__ if issubclass(base, Command))
        (cls.reply,) = base.__pydantic_generic_metadata__["args"] or (base.reply,)
        cls.service, cls.operation = _owner(cls), _snake(cls)
        cls.subject = f"cmd.{cls.service}.{cls.operation}"
        cls.permission, cls.issuers, cls.keyed, cls.timeout = permission, issuers, keyed, timeout
        cls.rate_limit, cls.step_up = limit, step_up


class Event(Message):
    """An act that happened: `class SecretWritten(Event, target="secret_id")`. It has ids, no personal data in clear.

    `target` names the field with the id of the thing that was acted on. Readers ignore unknown fields.

    `forgets` names what the event makes untrue, so that services drop it from their memory: what comes from its
    "target" (a session, a token), all of its "tenant", or what its tenant has of the "person" that is its target. Such
    an event is also published live, before its act is answered.
    """

    model_config = ConfigDict(extra="ignore")

    type: ClassVar[str]
    target: ClassVar[str]
    forgets: ClassVar[Literal["target", "tenant", "person"] | None]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__()

    @classmethod
    def __pydantic_init_subclass__(
        cls, *, target: str = "", forgets: Literal["target", "tenant", "person"] | None = None, **kwargs: Any
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if target not in cls.model_fields:
            raise TypeError(f"{cls.__name__}: the target '{target}' is not one of its fields.")
        if clear := [name for name, field in cls.model_fields.items() if is_clear(field)]:
            raise TypeError(f"{cls.__name__} has personal data in clear, for ever: {', '.join(clear)}.")
        cls.type = f"{_owner(cls)}.{_snake(cls)}"
        cls.target, cls.forgets = target, forgets

    @property
    def target_id(self) -> str:
        """The id of the thing that was acted on."""
        return str(getattr(self, self.target))


class Job(Message):
    """Long work of its owner, done in steps: `class ReencryptKeyring(Job, permission=Permission.KEYS_WRITE)`.

    A use case enqueues it in the transaction that announces it. Its fields are ids and numbers, and stand in its row in
    clear. `permission` is needed to begin it, to see it and to cancel it. A step that does not succeed is begun anew
    after a delay, at most `attempts` times without getting on.
    """

    service: ClassVar[str]
    kind: ClassVar[str]
    permission: ClassVar[str]
    attempts: ClassVar[int]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__()

    @classmethod
    def __pydantic_init_subclass__(cls, *, permission: str = "", attempts: int = 10, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if not permission:
            raise TypeError(f"{cls.__name__} names no permission.")
        if cls.is_sealed:
            raise TypeError(f"{cls.__name__} has a secret field, and a job's row has its fields in clear.")
        cls.service, cls.kind = _owner(cls), _snake(cls)
        cls.permission, cls.attempts = permission, attempts


class Nothing(Message):
    """An empty reply."""


def commands(owner: ModuleType) -> Iterator[type[Command[Any]]]:
    """Every command that the owner of this contract module answers."""
    return (kind for kind in vars(owner).values() if _is_message(kind, Command, owner))


def events(owner: ModuleType) -> Iterator[type[Event]]:
    """Every event that the owner of this contract module announces."""
    return (kind for kind in vars(owner).values() if _is_message(kind, Event, owner))


def jobs(owner: ModuleType) -> Iterator[type[Job]]:
    """Every job that the owner of this contract module does."""
    return (kind for kind in vars(owner).values() if _is_message(kind, Job, owner))


def _is_message(kind: object, base: type, owner: ModuleType) -> bool:
    # Pydantic puts `Command[Reply]` itself into the module that wrote it; it is not a message.
    if not isinstance(kind, type) or not issubclass(kind, base):
        return False
    return f"{kind.__module__}.".startswith(f"{owner.__name__}.") and "[" not in kind.__name__


def _owner(cls: type) -> str:
    """The name of the contract module, or of the folder of them, that has the class."""
    return cls.__module__.rpartition("contracts.")[2].partition(".")[0]


def _snake(cls: type) -> str:
    return _WORDS.sub("_", cls.__name__).lower()
