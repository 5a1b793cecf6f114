"""Pages and production code use plain words: a stranger understands each sentence at first reading."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNPLAIN = re.compile(
    r"(?<![a-z])(tells?|told|says?|said|hears?|heard|whoever|last words?|own words?|who may not)(?![a-z])",
    re.IGNORECASE,
)
"""Only people talk, and a sentence has its subject's noun first."""

CLAUSE = re.compile(r"(?:^|[.:;] |\"\"\"|# |\| )(?:Who|Whom|What|Whatever) [a-z]")
"""A sentence whose subject is a clause. Headings and questions begin so, too."""


def _files() -> list[str]:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *(ROOT / name for name in (".env.example", "Makefile"))]
    for top in ("libs", "services"):
        pages += [*ROOT.glob(f"{top}/*/*.md"), *ROOT.glob(f"{top}/*/causeloop_*/**/*.py")]
        pages += ROOT.glob(f"{top}/*/migrations/**/*.py")
    return sorted(str(page.relative_to(ROOT)) for page in pages)


def is_unplain(line: str) -> bool:
    """Whether a line has to be read twice."""
    return UNPLAIN.search(line) is not None or (CLAUSE.search(line) is not None and not line.startswith("##"))


def _unplain(name: str) -> list[str]:
    lines = (ROOT / name).read_text().splitlines()
    return [f"{name}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if is_unplain(line)]


class TestPlainWords:
    def test_a_page_or_module_has_none_of_the_words_that_need_a_second_reading(self) -> None:
        """F17: "told", "the log's own word", "who may not is refused"."""
        found = [line for name in _files() for line in _unplain(name)]
        assert not found, "\n".join(found)

    @pytest.mark.parametrize(
        "sentence",
        [
            "It was told so.", "The log tells it.", "Whoever has the key may open it.", "A gateway hears of it.",
            "NAMED_TOLD = 1", "def _say(line):", "The reply says why.", "The last words of a stream.",
            "In the log's own words.", "Who may not is refused.", "What was signed stays so.",
            '    """What a batch added."""', "It waits. What is late is dropped.", "| What is kept | a day |",
        ],
    )  # fmt: skip
    def test_the_words_are_found(self, sentence: str) -> None:
        assert is_unplain(sentence)

    @pytest.mark.parametrize(
        "sentence", ["A threshold.", "The untold story of a shearing.", "An essay on Saidnaya.", "## What is promised"]
    )
    def test_other_words_are_left_alone(self, sentence: str) -> None:
        assert not is_unplain(sentence)
