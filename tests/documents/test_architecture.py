"""The architecture page has the map of the tree that is there, and the floors that the import rules enforce."""

import re
import tomllib
from typing import Any

import pytest

from tests.documents.pages import ROOT, section, text

PAGE = "ARCHITECTURE.md"
BELOW = "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"
UNNAMED = {"__init__.py", "__pycache__", "py.typed"}
FLOORS = {
    "house": "house",
    "log": "log-floors",
    "common": "common-floors",
    "service": "service-floors",
    "gateway": "gateway-floors",
}
PACKAGES = sorted(
    str(path.relative_to(ROOT)) for top in ("libs", "services") for path in ROOT.glob(f"{top}/*/causeloop_*")
)


def the_map() -> dict[str, set[str]]:
    """The modules and folders that the map names, by package; the packages of a line with braces together."""
    found: dict[str, set[str]] = {}
    names: set[str] = set()
    block = section(PAGE, "The map").partition("```\n")[2].partition("```")[0]
    for line in block.splitlines():
        left, indent = re.split(r"\s{2,}", line.strip(), maxsplit=1)[0], len(line) - len(line.lstrip())
        if indent == 0 and "/causeloop_" in left:
            names = set()
            found |= dict.fromkeys(packages(left.rstrip("/")), names)
        elif indent == 0:
            names = set()
            assert all(any(ROOT.glob(name)) for name in left.split()), left
        elif indent == 4:
            names |= {name.rstrip("/") for name in re.findall(r"[\w.]+\.py|\w+/", left)}
    return found


def packages(pattern: str) -> list[str]:
    """The packages that a path with braces means: services in one pair, their package names in the other."""
    choices = [choice.split(",") for choice in re.findall(r"\{(.+?)\}", pattern)]
    if not choices:
        return [pattern]
    template = re.sub(r"\{.+?\}", "{}", pattern)
    return [template.format(*both) for both in zip(*choices, strict=True)]


def contracts() -> dict[str, Any]:
    pyproject = tomllib.loads(text("pyproject.toml"))
    return {contract["id"]: contract for contract in pyproject["tool"]["importlinter"]["contracts"]}


def rooms(floor: str) -> set[str]:
    """The rooms of one floor, without those in brackets: adapters, which not every service has, and rooms to come."""
    return {room.strip().removeprefix("causeloop_") for room in re.split(r"[|:,]", floor) if "(" not in room}


class TestTheMap:
    def test_fits_in_two_hundred_lines(self) -> None:
        assert len(text(PAGE).splitlines()) <= 200

    @pytest.mark.parametrize("package", PACKAGES)
    def test_names_every_module_and_folder_of_a_package(self, package: str) -> None:
        there = {path.name for path in (ROOT / package).iterdir()} - UNNAMED
        assert there <= the_map()[package], f"add them to the map in {PAGE}"

    def test_names_nothing_that_is_not_there(self) -> None:
        named = the_map()
        assert set(named) == set(PACKAGES)
        for package, names in named.items():
            twins = [twin for twin, same in named.items() if same is names]
            there = {path.name for twin in twins for path in (ROOT / twin).iterdir()}
            assert names <= there, f"take what {package} does not have out of the map in {PAGE}"


class TestTheFloors:
    @pytest.mark.parametrize("line", FLOORS)
    def test_are_those_of_the_import_rules(self, line: str) -> None:
        block = section(PAGE, "Floors")
        found = re.search(rf"(?m)^{line} +(.+(?:\n +.+)*)", block)
        assert found is not None
        printed = " ".join(found[1].replace("(independent of each other)", "").split())
        written = [rooms(floor) - {"adapters"} for floor in printed.split(BELOW)]
        assert written == [rooms(floor) for floor in contracts()[FLOORS[line]]["layers"]]
