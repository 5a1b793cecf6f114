"""`docs/personal-data.md`: the personal data in messages and tables, written from the marks that declare it."""

from collections.abc import Iterator

from causeloop_cli import services
from causeloop_common.contracts import topology
from causeloop_common.contracts.base import commands, events
from causeloop_common.contracts.personal import Personal, is_secret, mark

_HEAD = """# Personal data

Written by `make schemas` from the marks in contracts and tables (`contracts/personal.py`): change those. An event holds
no personal data in clear, since the log is never rewritten; logs and traces hold none. Ids of persons are derived from
the identity at the provider and name nobody by themselves.

Not marked, since they are what a workspace's people choose to write: names of workspaces, tokens and keys, paths and
values of secrets, and what applications encrypt.
"""


def page() -> str:
    """The whole page."""
    return "\n".join(
        (
            _HEAD,
            "## In messages\n",
            "| message | field | what | crosses the bus | ends |",
            "|---|---|---|---|---|",
            *_messages(),
            "",
            "## In tables\n",
            "| column | what | at rest | ends |",
            "|---|---|---|---|",
            *_columns(),
            "",
        )
    )


def _messages() -> Iterator[str]:
    for name, owner in topology.ANNOUNCERS.items():
        for kind in (*commands(owner), *events(owner)):
            for field_name, field in kind.model_fields.items():
                if (found := mark(field)) is not None:
                    how = "as ciphertext" if found.is_ciphertext or is_secret(field) or kind.is_sealed else "in clear"
                    yield f"| `{name}.{kind.__name__}` | `{field_name}` | {found.what} | {how} | {found.end} |"


def _columns() -> Iterator[str]:
    for name in services.schemas():
        for table in services.tables(name).sorted_tables:
            for column in table.columns:
                found: Personal | None = column.info.get("personal")
                if found is not None:
                    how = "sealed" if found.is_ciphertext else "in clear"
                    yield f"| `{name}.{table.name}.{column.name}` | {found.what} | {how} | {found.end} |"
