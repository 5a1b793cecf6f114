"""The pages of the command line list every subcommand and option that the parser has."""

import argparse
import re
from collections.abc import Iterator

import pytest

from causeloop_cli.main import parser
from tests.documents.pages import ROOT, in_code, rows, text

PAGES = {"causeloop_cli": "libs/cli/README.md", "causeloop_dev": "libs/dev/README.md"}


def commands(parser: argparse.ArgumentParser, name: str = "causeloop") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that does something, by its whole name."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for action in below:
        for word, subparser in action.choices.items():
            yield from commands(subparser, f"{name} {word}")


def options(parser: argparse.ArgumentParser) -> list[str]:
    return [
        name
        for action in parser._actions
        for name in action.option_strings
        if name not in ("-h", "--help", "--version")
    ]


class TestTheCommandLine:
    @pytest.mark.parametrize("package", PAGES)
    def test_lists_every_command_and_its_options(self, package: str) -> None:
        """F16: a list that a program has is compared with the page."""
        printed = {
            in_code(command)[0]: sorted(in_code(named)) for command, _, named, _ in rows(PAGES[package], "Commands")
        }
        declared = {
            name: sorted(options(one))
            for name, one in commands(parser())
            if one.get_default("package") == (None if package == "causeloop_cli" else package)
        }
        assert printed == declared


def unknown(command: str) -> bool:
    """Whether a command, as a page has it in code, is none, or has an option that none of that name has."""
    known = dict(commands(parser()))
    words = re.match(r"causeloop(?: [a-z|]+)*", command)
    assert words is not None
    *group, last = words[0].split()
    given = set(re.findall(r"(?<!\S)--[a-z-]+", command)) - {"--help"}
    for name in (" ".join([*group, choice]) for choice in last.split("|")):
        meant = [one for one in known if f"{one} ".startswith(f"{name} ") or f"{name} ".startswith(f"{one} ")]
        if not any(given <= set(options(known[one])) for one in meant):
            return True
    return False


class TestPages:
    def test_every_page_names_commands_and_options_that_there_are(self) -> None:
        places = ("*.md", "docs/**/*.md", "libs/*/README.md", "services/*/README.md")
        pages = [str(page.relative_to(ROOT)) for place in places for page in ROOT.glob(place)]
        assert len(pages) > 40
        named = {
            (page, command)
            for page in pages
            for command in re.findall(r"`(?:\.venv/bin/)?(causeloop [^`]+)`", text(page))
        }
        assert len(named) > 40
        assert not [one for one in named if unknown(one[1])]

    @pytest.mark.parametrize("command", ["causeloop wash", "causeloop dead sing", "causeloop audit verify --quickly"])
    def test_another_one_is_found(self, command: str) -> None:
        assert unknown(command)
