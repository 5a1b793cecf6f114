"""`make bench`: our path against the reference path, in one run, turn by turn.

Every row alternates between the sides several times and quotes medians, since a busy machine drifts. Writes
`.causeloop/bench.json` (merged with earlier rows) and prints the table. PostgreSQL fsyncs, on disk.
"""

import argparse
import base64
import contextlib
import json
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = Path(".causeloop/bench.json")


@dataclass(frozen=True)
class Effort:
    """How much is measured: `rounds` of `seconds` each, and what `part` of the amounts that a row has by itself."""

    rounds: int = 5
    seconds: float = 3.0
    part: float = 1.0

    def of(self, amount: int) -> int:
        """This part of an amount, at least one."""
        return max(1, round(amount * self.part))


SMOKE = Effort(rounds=1, seconds=0.2, part=0.005)
"""Shows that a row runs; its figures mean nothing."""


@dataclass
class Row:
    """One row of the table. `bar` says which ratios must hold; the peer is OpenBao, where it is installed."""

    ours: float
    reference: float | None
    peer: float | None
    unit: str
    better: str
    bar: str
    holds: bool
    p50_ms: float | None = None
    p99_ms: float | None = None
    cpu_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    """By side, `ours`, `reference` or `peer`: the CPU-milliseconds of an act, by process."""
    note: str = ""
    """More that was measured, for the table."""


Measure = Callable[[Effort], Row]


def known() -> dict[str, Measure]:
    """Every row by its name."""
    from bench import audit, proof, relay, rows, scale, signer, stream, vault, versions  # they import this module

    rooms = (rows, versions, vault, audit, proof, relay, signer, stream, scale)
    return {name: measure for room in rooms for name, measure in room.ROWS.items()}


def main() -> int:
    """Measure the rows asked for."""
    from bench import machine, page  # they import this module

    measures = known()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", help=f"comma-separated: {', '.join(measures)}")
    parser.add_argument("--rounds", type=int, default=Effort.rounds)
    parser.add_argument("--seconds", type=float, default=Effort.seconds)
    parser.add_argument("--smoke", action="store_true", help="only show that the rows run: judge and write nothing")
    parser.add_argument("--page", action="store_true", help="write docs/performance.md of all rows measured so far")
    options = parser.parse_args()
    wanted = options.rows.split(",") if options.rows else list(measures)
    if unknown := [name for name in wanted if name not in measures]:
        print(f"There is no row {', '.join(unknown)}. There are: {', '.join(measures)}.", file=sys.stderr)
        return 2
    if options.smoke:
        return smoke({name: measures[name] for name in wanted})
    results = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    effort = Effort(options.rounds, options.seconds)
    for name in wanted:
        print(f"… {name}", file=sys.stderr)
        results[name] = {**asdict(measures[name](effort)), "measured": machine.surroundings(effort)}
    results = {name: results[name] for name in measures if name in results}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"rows": results}, indent=2) + "\n")
    print(table({name: results[name] for name in wanted}))
    return page.write(results) if options.page else 0


def smoke(rows: Mapping[str, Measure]) -> int:
    """Run every row for a moment; a row that cannot run raises."""
    for name, measure in rows.items():
        began = time.monotonic()
        measure(SMOKE)
        print(f"{name:<24} runs ({time.monotonic() - began:.0f} s)", flush=True)
    return 0


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as text, each with the CPU time of an act below it, where that was measured."""
    sides = f"{'ours':>9} {'reference':>9} {'ratio':>6} {'peer':>9} {'ratio':>6}"
    lines = [f"{'row':<20} {sides}  {'unit':<5} {'p50 ms':>7} {'p99 ms':>7}  bar"]
    for name, row in rows.items():
        others = ""
        for other in (row["reference"], row["peer"]):
            figure, ratio = (f"{other:.0f}", f"{row['ours'] / other:.2f}") if other else ("-", "")
            others += f" {figure:>9} {ratio:>6}"
        p50, p99 = (f"{row[p]:.2f}" if row[p] is not None else "" for p in ("p50_ms", "p99_ms"))
        holds = "holds" if row["holds"] else "DOES NOT HOLD"
        ours = f"{row['ours']:.2f}" if row["ours"] < 100 else f"{row['ours']:.0f}"
        lines.append(f"{name:<20} {ours:>9}{others}  {row['unit']:<5} {p50:>7} {p99:>7}  {row['bar']}: {holds}")
        lines += [f"  {more}" for more in (spent(row.get("cpu_ms", {})), row.get("note", "")) if more]
    return "\n".join(lines)


def spent(cpu_ms: dict[str, dict[str, float]]) -> str:
    """The CPU time of an act in words; of the other sides the sum alone."""
    if not cpu_ms:
        return ""
    ours = cpu_ms["ours"]
    parts = ", ".join(f"{name} {ms:.2f}" for name, ms in ours.items() if round(ms, 2))
    others = "".join(f"; {name} {sum(cpu_ms[name].values()):.2f}" for name in ("reference", "peer") if name in cpu_ms)
    return f"CPU ms per act {sum(ours.values()):.2f} ({parts}){others}"


def load(
    port: int, requests: Sequence[bytes] | Sequence[Sequence[bytes]], seconds: float, *, each: bool = False
) -> dict[str, Any]:
    """One turn of load: a connection for every request, or several, which it repeats; `each` is sent once at least."""
    shares = [[share] if isinstance(share, bytes) else share for share in requests]
    house = {
        "host": "127.0.0.1",
        "port": port,
        "requests": [[base64.b64encode(request).decode() for request in share] for share in shares],
        "seconds": seconds,
        "each": each,
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "load.py")],
        input=json.dumps(house) + "\n",
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
    """Two sides, turn by turn."""
    first, second = in_turn([ours, reference], rounds)
    return first, second


def in_turn(sides: Sequence[Callable[[], dict[str, Any]]], rounds: int) -> list[list[dict[str, Any]]]:
    """The results of each side, measured turn by turn; another side begins in every round."""
    results: list[list[dict[str, Any]]] = [[] for _ in sides]
    for number in range(rounds):
        for place in range(len(sides)):
            side = (number + place) % len(sides)
            results[side].append(sides[side]())
    return results


def compare(
    ours: list[dict[str, Any]],
    reference: list[dict[str, Any]] | None,
    peer: list[dict[str, Any]] | None = None,
    *,
    bar: float | None = None,
    peer_bar: float | None = None,
) -> Row:
    """A row of rates: ours has to be `bar` of the reference, and `peer_bar` of the peer where there is one."""
    rate = median(ours, "rate")
    others = {"the reference": (reference, bar), "OpenBao": (peer, peer_bar)}
    rates = {name: median(results, "rate") if results else None for name, (results, _) in others.items()}
    bars = {name: least for name, (_, least) in others.items() if least is not None}
    sides = {"ours": ours, "reference": reference, "peer": peer}
    return Row(
        ours=rate,
        reference=rates["the reference"],
        peer=rates["OpenBao"],
        unit="1/s",
        better="higher",
        bar=", ".join(f">= {least} of {name}" for name, least in bars.items()),
        holds=all(other is None or rate / other >= bars[name] for name, other in rates.items() if name in bars),
        p50_ms=median(ours, "p50_ms") if "p50_ms" in ours[0] else None,
        p99_ms=median(ours, "p99_ms") if "p99_ms" in ours[0] else None,
        cpu_ms={name: cpu_ms(turns) for name, turns in sides.items() if turns and "cpu_ms" in turns[0]},
    )


def cpu_ms(turns: list[dict[str, Any]]) -> dict[str, float]:
    """The CPU-milliseconds of an act by process, each the median of the turns."""
    found = [turn["cpu_ms"] for turn in turns]
    return {name: median(found, name) for name in found[0]}


def median(results: list[dict[str, Any]], name: str) -> float:
    """The median of one figure."""
    return float(statistics.median(result[name] for result in results))


def paired(base: list[dict[str, Any]], other: list[dict[str, Any]], name: str) -> float:
    """The median of the rounds' ratios, other to base: what disturbs a round disturbs both."""
    return float(statistics.median(b[name] / a[name] for a, b in zip(base, other, strict=True)))


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


def free_port() -> int:
    """A port below the ephemeral range."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the processes to be measured did not start")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
