"""Lists, page by page: `class ListSecrets(List[SecretPage], table="secrets", orders={"path": "path"}, permission=…)`.

A list brings `limit` and `position`. Its class line names the table of its rows, and for each order the column whose
values are the positions. Every other field is a filter: `filters` name those that have an index, by the columns that
they compare; `tried` are those that are tried on each row of the order, of which a page tries a bounded number. Tests
compare all of it with the indexes that the table has, and with the database's plans. `besides` are fields that choose
no rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Generic, TypeVar, cast

from pydantic import Field

from causeloop_common.contracts.base import PAGE_BYTES, Command, Message

PageSize = Annotated[int, Field(ge=1, le=100, description="The most items that a page has.")]
Position = Annotated[
    str | None, Field(max_length=512, description="Where the page begins, for the service that answers.")
]

T = TypeVar("T")


class Page(Message):
    """Base of a list's reply: `data`, and the position at which the next page begins."""

    next_position: Position = Field(default=None, description="Where the next page begins; null on the last.")


PageT = TypeVar("PageT", bound=Page)


class List(Command[PageT], Generic[PageT]):
    """A question whose reply is a page. `owner` is the column that binds the rows to the caller, if one does."""

    table: ClassVar[str]
    owner: ClassVar[str | None]
    orders: ClassVar[Mapping[str, str]]
    filters: ClassVar[Mapping[str, str]]

    limit: PageSize = 25
    position: Position = None

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        *,
        table: str = "",
        orders: Mapping[str, str] | None = None,
        owner: str | None = None,
        filters: Mapping[str, str] | None = None,
        tried: Sequence[str] = (),
        besides: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if orders is None:  # List[Page] itself, or another owner's list of the same kind
            return
        cls.table, cls.owner, cls.orders, cls.filters = table, owner, orders, filters or {}
        declared = {"limit", "position", *cls.filters, *tried, *besides, *(["order"] if len(orders) > 1 else [])}
        if wrong := declared ^ cls.model_fields.keys():
            raise TypeError(f"{cls.__name__}: 'filters' and 'tried' are not its fields: {', '.join(sorted(wrong))}.")

    @classmethod
    def indexes(cls) -> Iterator[tuple[str, ...]]:
        """The columns of the indexes that the table needs."""
        narrowed: list[tuple[str, ...]] = [(), *((column,) for column in cls.filters.values())]
        for order in cls.orders.values():
            yield from (tuple(dict.fromkeys((*cls.bound(order), *columns, order))) for columns in narrowed)

    @classmethod
    def bound(cls, order: str) -> tuple[str, ...]:
        """The first columns: the tenant, unless the list goes through tenants, and the caller's."""
        own = () if cls.owner is None else (cls.owner,)
        return own if order == "workspace_id" else ("workspace_id", *own)

    @property
    def wanted(self) -> int:
        """How many rows to read for `page`: one more than a page has shows that there is a next page."""
        return self.limit + 1


def page(
    found: Sequence[T],
    command: List[PageT],
    *,
    key: Callable[[T], str],
    show: Callable[[T], Any] = lambda one: one,
    size: Callable[[T], int] = lambda _: 0,
    behind: str | None = None,
) -> PageT:
    """The page of the rows that were found, `command.wanted` at most.

    `key` is the position of a row, `show` its item, `size` its bytes: the page is cut at 512 KiB, after one at least.
    `behind` is the position behind the last row that was tried, if others follow that were not.
    """
    shown: list[T] = []
    left = PAGE_BYTES
    for one in found[: command.limit]:
        left -= size(one)
        if shown and left < 0:
            break
        shown.append(one)
    position = key(shown[-1]) if len(found) > len(shown) else behind
    reply = cast("type[PageT]", command.reply)
    return reply.model_validate({"data": [show(one) for one in shown], "next_position": position})
