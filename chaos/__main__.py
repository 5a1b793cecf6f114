"""`make chaos`: kill processes at random under load, and see that every promise holds.

    python -m chaos --seed 1 --kills 100

Without a seed one is drawn and printed; a run that finds something prints it again and keeps the folder with all logs.
Writes `.causeloop/chaos.json`.
"""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from causeloop_cli.embedded import Janitor
from chaos.campaign import Campaign, Limits
from tests.support.stack import Stack

RESULTS = Path(".causeloop/chaos.json")


def main() -> int:
    """Run one campaign; 1 when something did not hold."""
    parser = argparse.ArgumentParser(description="Kill processes at random under load; see CONTRIBUTING.md.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="kill no more after so long, then judge")
    parser.add_argument("--slack", type=float, default=1.0, help="stretches the limits on a busy machine")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.kills} kills", flush=True)
    folder, begun = Path(tempfile.mkdtemp(prefix="causeloop-chaos-")), time.monotonic()
    with Janitor() as janitor:
        report = asyncio.run(_run(folder, janitor, options))
    report["seconds"] = round(time.monotonic() - begun)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report))
    if report["holds"]:
        shutil.rmtree(folder)
        return 0
    print(f"\nDOES NOT HOLD with seed {options.seed}. The logs of all processes are in {folder}:")
    print("\n".join(f"  {what}" for what in report["broken"][:50]))
    return 1


async def _run(folder: Path, janitor: Janitor, options: argparse.Namespace) -> dict[str, Any]:
    stack = Stack(folder, janitor)
    campaign = Campaign(
        stack,
        options.seed,
        options.kills,
        Limits(slack=options.slack),
        lambda line: print(line, flush=True),
        options.seconds,
    )
    try:
        await stack.start_all()
        await campaign.run()
    except BaseExceptionGroup as error:  # a worker that failed is a finding too, and the seed must be printed
        campaign.model.breaks(f"a client failed: {error.exceptions!r}")
    except AssertionError as error:
        campaign.model.breaks(str(error))
    finally:
        for server in (stack.nats, stack.postgres):
            shutil.copy(server.log, folder)
        await stack.stop_all()
    return campaign.report()


def table(report: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [f"\n{'killed':<10} {'times':>5}   {'recovery s, p50 / max':>22}   {'refusal ms, p50 / max':>22}"]
    for target, numbers in report["targets"].items():
        spans = [
            f"{numbers[what].get('p50', 0):>9.2f} / {numbers[what].get('max', 0):<9.2f}"
            for what in ("recovery_s", "refusal_ms")
        ]
        lines.append(f"{target:<10} {numbers['kills']:>5}   {spans[0]:>22}   {spans[1]:>22}")
    answers = ", ".join(
        f"{count} × {'cut' if status == '0' else status}" for status, count in report["answers"].items()
    )
    word = report["revocations"]
    lines += [
        f"{report['kills']} kills in {report['seconds']} s, {report['acts']} acts acknowledged; answers: {answers}",
        f"{report['proven']} entries proven, each from its hash to a checkpoint that the vault signed",
        f"{word['count']} revocations, last success {word['last_success_ms']} ms after the answer",
        "every promise held" if report["holds"] else f"{len(report['broken'])} promises broken",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
