"""`make bench`: our path against the reference path, in one run, turn by turn.

Every row alternates between the two several times and quotes medians, since a busy machine drifts. Writes
`.causeloop/bench.json` (merged with earlier rows) and prints the table. PostgreSQL fsyncs, on disk.
"""

import argparse
import base64
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = Path(".causeloop/bench.json")


@dataclass
class Row:
    """One row of the table. `bar` is the ratio that must hold; the peer is OpenBao, where it is installed."""

    ours: float
    reference: float | None
    peer: float | None
    unit: str
    better: str
    bar: str
    holds: bool
    p50_ms: float | None = None
    p99_ms: float | None = None


def main() -> int:
    """Measure the rows asked for."""
    from tests.bench.rows import ROWS  # rows import this module

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", help=f"comma-separated: {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    wanted = options.rows.split(",") if options.rows else list(ROWS)
    if unknown := [name for name in wanted if name not in ROWS]:
        print(f"There is no row {', '.join(unknown)}. There are: {', '.join(ROWS)}.", file=sys.stderr)
        return 2
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    for name in wanted:
        print(f"… {name}", file=sys.stderr)
        rows[name] = asdict(ROWS[name](options.rounds, options.seconds))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    print(table({name: rows[name] for name in wanted}))
    return 0


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as text."""
    lines = [f"{'row':<20} {'ours':>9} {'reference':>9} {'ratio':>6}  {'unit':<5} {'p50 ms':>7} {'p99 ms':>7}  bar"]
    for name, row in rows.items():
        ratio = f"{row['ours'] / row['reference']:.2f}" if row["reference"] else ""
        reference = f"{row['reference']:.0f}" if row["reference"] else "-"
        p50, p99 = (f"{row[p]:.2f}" if row[p] is not None else "" for p in ("p50_ms", "p99_ms"))
        holds = "holds" if row["holds"] else "DOES NOT HOLD"
        ours = f"{row['ours']:.2f}" if row["ours"] < 100 else f"{row['ours']:.0f}"
        lines.append(
            f"{name:<20} {ours:>9} {reference:>9} {ratio:>6}  {row['unit']:<5} {p50:>7} {p99:>7}  {row['bar']}: {holds}"
        )
    return "\n".join(lines)


def load(port: int, requests: list[bytes], seconds: float) -> dict[str, Any]:
    """One turn of load: a connection for every request, which it repeats."""
    told = {
        "host": "127.0.0.1",
        "port": port,
        "requests": [base64.b64encode(request).decode() for request in requests],
        "seconds": seconds,
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "load.py")],
        input=json.dumps(told) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    if result["errors"]:
        raise RuntimeError(f"{result['errors']} of {result['count']} answers were refusals: {result['first_error']}")
    return result


def interleaved(
    ours: Callable[[], dict[str, Any]], reference: Callable[[], dict[str, Any]], rounds: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Turn by turn, each side first in every other round."""
    first: list[dict[str, Any]] = []
    second: list[dict[str, Any]] = []
    for number in range(rounds):
        turns = [(first, ours), (second, reference)]
        for results, turn in turns if number % 2 else reversed(turns):
            results.append(turn())
    return first, second


def median(results: list[dict[str, Any]], name: str) -> float:
    """The median of one figure."""
    return float(statistics.median(result[name] for result in results))


@contextlib.contextmanager
def process(*command: str, stdin: str | None = None, env: dict[str, str] | None = None) -> Iterator[Any]:
    """A process that ends with the block."""
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    assert running.stdin is not None
    if stdin is not None:
        running.stdin.write(stdin)
        running.stdin.flush()
    try:
        yield running
    finally:
        running.stdin.close()
        running.terminate()
        try:
            running.wait(timeout=15)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        if running.stdout is not None:
            running.stdout.close()


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the processes to be measured did not start")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
