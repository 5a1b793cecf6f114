"""Two trees of this repository on one machine: does the new one measure worse?

    python -m bench.compare OLD NEW --pairs 7 --rows secret_put,rls_transaction

Every row is measured pair by pair: the old tree and then the new one, the other way round in the next pair, each by
its own bench with its own `.venv`. Neither tree is written to. A row holds when its median loss is at most three
percent, or when the new tree's median lies inside the interquartile range of the old one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ALLOWED = 0.03
MODULES = {"bench/run.py": "bench.run", "tests/bench/run.py": "tests.bench.run"}
"""Where a tree has its bench, and how that is run."""


class BenchFailed(Exception):
    """A tree's bench could not measure."""


@dataclass(frozen=True)
class Tree:
    """A checked-out tree with its `.venv`."""

    folder: Path

    def bench(self, *options: str, into: str) -> str:
        """Run this tree's bench, whose files go `into` a folder; what it prints."""
        module = next((module for path, module in MODULES.items() if (self.folder / path).exists()), None)
        if module is None:
            raise BenchFailed(f"{self.folder} has no bench: none of {', '.join(MODULES)} is there.")
        done = subprocess.run(
            [self.folder / ".venv" / "bin" / "python", "-m", module, *options],
            cwd=into,
            env={**os.environ, "PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise BenchFailed(f"{module} of {self.folder} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def measure(self, row: str, rounds: int, seconds: float) -> dict[str, Any]:
        """One row, as the bench writes it down."""
        with tempfile.TemporaryDirectory(prefix="causeloop-bench-") as folder:
            self.bench("--rows", row, "--rounds", str(rounds), "--seconds", str(seconds), into=folder)
            rows: dict[str, dict[str, Any]] = json.loads(Path(folder, ".causeloop", "bench.json").read_text())["rows"]
        return rows[row]

    def rows(self) -> list[str]:
        """The names of its rows."""
        with tempfile.TemporaryDirectory(prefix="causeloop-bench-") as folder:
            wrapped = self.bench("--help", into=folder)
        _, _, names = " ".join(wrapped.split()).partition("comma-separated: ")
        found = []
        for name in names.split(" "):
            found.append(name.removesuffix(","))
            if not name.endswith(","):
                break
        return found


@dataclass
class Comparison:
    """What both trees measured of a row, pair by pair."""

    row: str
    unit: str
    better: str
    old: list[float] = field(default_factory=list)
    new: list[float] = field(default_factory=list)

    @property
    def loss(self) -> float:
        """The median of the pairs' losses, as a part of the old figure; negative for a gain."""
        sign = 1 if self.better == "lower" else -1
        pairs = zip(self.old, self.new, strict=True)
        return statistics.median(sign * (new - old) / old if old else float(new > 0) for old, new in pairs)

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles of the old tree's figures."""
        if len(self.old) == 1:
            return self.old[0], self.old[0]
        first, _, third = statistics.quantiles(self.old, n=4, method="inclusive")
        return first, third

    @property
    def holds(self) -> bool:
        """Whether the new tree is no slower, as far as this machine can see."""
        first, third = self.spread
        return self.loss <= ALLOWED or first <= statistics.median(self.new) <= third

    def line(self) -> str:
        """One line of the table."""
        first, third = self.spread
        spread = f"{_figure(first)} – {_figure(third)}"
        return (
            f"{self.row:<24} {_figure(statistics.median(self.old)):>9} {_figure(statistics.median(self.new)):>9} "
            f"{self.unit:<4} {self.loss:>+8.1%} {spread:>21}  {'holds' if self.holds else 'SLOWER'}"
        )


HEADER = f"{'row':<24} {'old':>9} {'new':>9} {'unit':<4} {'loss':>8} {'old quartiles':>21}  verdict"


def main() -> int:
    """Compare; 1 when a row does not hold, 2 when it cannot be measured."""
    parser = argparse.ArgumentParser(description="Compare the bench of two trees; see the top of this file.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--rows", help="comma-separated; all that both trees have, if not given")
    parser.add_argument("--rounds", type=int, default=1, help="of each measurement")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    options = parser.parse_args()
    old, new = Tree(options.old.resolve()), Tree(options.new.resolve())
    try:
        there = [row for row in new.rows() if row in set(old.rows())]
        wanted = options.rows.split(",") if options.rows else there
        if unknown := [row for row in wanted if row not in there]:
            raise BenchFailed(f"Not a row of both trees: {', '.join(unknown)}. Rows of both: {', '.join(there)}.")
        print(HEADER, flush=True)
        lost = []
        for row in wanted:
            found = compare(row, old, new, options.pairs, options.rounds, options.seconds)
            print(found.line(), flush=True)
            lost += [] if found.holds else [row]
    except BenchFailed as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(wanted) - len(lost)} of {len(wanted)} rows hold ({options.pairs} interleaved pairs)")
    return 1 if lost else 0


def compare(row: str, old: Tree, new: Tree, pairs: int, rounds: int, seconds: float) -> Comparison:
    """Measure a row of both trees, pair by pair."""
    found: Comparison | None = None
    for number in range(pairs):
        measured: dict[Tree, dict[str, Any]] = {}
        for tree in (old, new) if number % 2 == 0 else (new, old):
            measured[tree] = tree.measure(row, rounds, seconds)
        found = found or Comparison(row, measured[new]["unit"], measured[new]["better"])
        found.old.append(measured[old]["ours"])
        found.new.append(measured[new]["ours"])
        print(f"… {row} {number + 1}/{pairs}: {found.old[-1]:.2f} {found.new[-1]:.2f}", file=sys.stderr)
    assert found is not None
    return found


def _figure(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


if __name__ == "__main__":
    sys.exit(main())
