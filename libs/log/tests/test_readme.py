"""README.md repeats what the code knows: rules, fields, exit codes, commands, rooms."""

import re
from pathlib import Path

import pytest

from causeloop_log import main
from causeloop_log.entry import v2

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return README.partition(f"### {title}\n")[2].partition("\n### ")[0]


def test_the_rules_of_version_2_are_those_of_the_code() -> None:
    found = re.findall(r"^(\d+)\. (.+(?:\n {3,}.+)*)", section("An entry of version 2"), re.MULTILINE)
    assert {int(number): re.sub(r"\s+", " ", rule) for number, rule in found} == v2.RULES


def test_the_fields_of_version_2_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (`.+?) \|", section("An entry of version 2"), re.MULTILINE)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(v2._FIELDS)


def test_the_exit_codes_are_those_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["--help"])
    shown = capsys.readouterr().out
    codes = re.findall(r"^  (\d)  (.+)$", shown, re.MULTILINE)
    assert len(codes) == 3
    assert all(f"| {code} | {meaning} |" in README for code, meaning in codes)
    commands = re.findall(r"^causeloop-verify .+$", README, re.MULTILINE)
    assert len(commands) == 4
    assert all(f"  {command}\n" in shown for command in commands)


def test_the_rooms_are_those_of_the_package() -> None:
    rows = re.findall(r"^\| (`.+?) \|", README.partition("## Rooms\n")[2], re.MULTILINE)
    package = Path(__file__).parents[1] / "causeloop_log"
    rooms = {path.stem for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == rooms - {"__init__", "__pycache__", "py"}
