"""Lists, read to their end."""

from collections.abc import Awaitable, Callable
from typing import Any

from causeloop_common.context import AuthContext


async def pages(list_: Callable[[AuthContext, Any], Awaitable[Any]], ctx: AuthContext, command: Any) -> list[list[Any]]:
    """The items of a list, page by page."""
    found: list[list[Any]] = []
    while True:
        page = await list_(ctx, command)
        found.append(page.data)
        if page.next_position is None:
            return found
        command = command.model_copy(update={"position": page.next_position})
