"""Pages as their readers see them: tables by heading, words in code, blocks between fences."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVICE_PAGES = {
    "gateway": "services/gateway/README.md",
    "auth": "services/auth/README.md",
    "tenancy": "services/tenancy/README.md",
    "vault": "services/crypto-vault/README.md",
    "audit": "services/audit/README.md",
}


def text(page: str) -> str:
    """A page's text."""
    return (ROOT / page).read_text()


def section(page: str, heading: str) -> str:
    """What stands under a heading of the second level, up to the next one."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text(page), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{page} has no section '{heading}'"
    return found[1]


def rows(page: str, heading: str, table: int = 0) -> list[list[str]]:
    """The cells of a table under a heading, without its first two lines; `table` counts the heading's tables from 0."""
    found = re.findall(r"^\|.*(?:\n\|.*)+", section(page, heading), re.MULTILINE)
    assert len(found) > table, f"'{heading}' of {page} has no table {table}"
    return [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in found[table].splitlines()[2:]
    ]


def in_code(cell: str) -> list[str]:
    """The words of a cell that are set as code."""
    return re.findall(r"`([^`]+)`", cell)


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text(page), re.MULTILINE | re.DOTALL)
