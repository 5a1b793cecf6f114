"""Two trees of this repository on one machine: does the new one measure worse?

    python -m bench.compare OLD NEW --pairs 7 --rows secret_put,rls_transaction

Pair by pair, the bench of the old tree and then that of the new one measures every row, the other way round in the next
pair; each runs with its own `.venv`. Neither tree is written to. A row holds when its median loss is at most three
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

    def measure(self, rows: list[str], rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
        """Rows, as the bench writes them down."""
        with tempfile.TemporaryDirectory(prefix="causeloop-bench-") as folder:
            self.bench("--rows", ",".join(rows), "--rounds", str(rounds), "--seconds", str(seconds), into=folder)
            measured: dict[str, dict[str, Any]] = json.loads(Path(folder, ".causeloop", "bench.json").read_text())[
                "rows"
            ]
        return measured

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
        found = compare(wanted, old, new, options.pairs, options.rounds, options.seconds)
    except BenchFailed as error:
        print(error, file=sys.stderr)
        return 2
    print(HEADER)
    for comparison in found:
        print(comparison.line())
    lost = [comparison for comparison in found if not comparison.holds]
    print(f"{len(wanted) - len(lost)} of {len(wanted)} rows hold ({options.pairs} interleaved pairs)")
    return 1 if lost else 0


def compare(rows: list[str], old: Tree, new: Tree, pairs: int, rounds: int, seconds: float) -> list[Comparison]:
    """Measure rows of both trees, pair by pair."""
    found: dict[str, Comparison] = {}
    for number in range(pairs):
        measured: dict[Tree, dict[str, dict[str, Any]]] = {}
        for tree in (old, new) if number % 2 == 0 else (new, old):
            measured[tree] = tree.measure(rows, rounds, seconds)
        for row in rows:
            before, after = measured[old][row], measured[new][row]
            comparison = found.setdefault(row, Comparison(row, after["unit"], after["better"]))
            comparison.old.append(before["ours"])
            comparison.new.append(after["ours"])
            print(
                f"… {number + 1}/{pairs} {row}: {before['ours']:.2f} {after['ours']:.2f}", file=sys.stderr, flush=True
            )
    return list(found.values())


def _figure(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


if __name__ == "__main__":
    sys.exit(main())
