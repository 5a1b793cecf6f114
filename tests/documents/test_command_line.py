"""The pages of the command line list every subcommand and option that the parser has."""

import argparse
from collections.abc import Iterator

import pytest

from causeloop_cli.main import parser
from tests.documents.pages import in_code, rows

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
