"""Drop, double, reorder and cut what is on its way to the log, while acts are done; and see that each has its entry.

    python -m chaos.receipts --acts 20000 --seconds 600 --seed 1
    python -m chaos.receipts --without-receipts     the same, and no receipt passes: it has to find losses
    python -m chaos.receipts --lag 600              nothing is broken, the intake is late: nothing is published again

Besides, events as large as they may be are announced in bursts, a thief with the gateway's credential uses other
services' ids, and EVENTS is purged once; `--strikes` names some of these, or `restore`: an older copy of audit's
database. After that every act has its entry again. The logs continue what was signed of them, unless EVENTS was purged
since the copy. Prints the acts without an entry, what clients of the streams saw, and how many logs continued; writes
`.causeloop/receipts.json`.
"""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from causeloop_cli.embedded import Janitor
from chaos.receipts.campaign import DEFAULTS, STRIKES, Campaign, Plan
from chaos.receipts.wire import KINDS, Wire
from tests.support.stack import Stack

RESULTS = Path(".causeloop/receipts.json")
_FEW = 5


def main() -> int:
    """Run one campaign; 1 when something was not as it has to be."""
    parser = argparse.ArgumentParser(description="Lose what is on its way to the log; see CONTRIBUTING.md.")
    parser.add_argument("--acts", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument(
        "--strikes", default=",".join(DEFAULTS), help=f"some of {', '.join(STRIKES)}, separated by commas"
    )
    parser.add_argument("--without-receipts", action="store_true", help="let no receipt pass: there must be losses")
    parser.add_argument("--lag", type=float, default=0, help="have the intake wait so long, and do nothing else")
    given = parser.parse_args()
    chosen = frozenset(given.strikes.split(","))
    if unknown := chosen - set(STRIKES):
        parser.error(f"--strikes: there is no {', '.join(sorted(unknown))}; choose from {', '.join(STRIKES)}")
    plan = Plan(given.seed, given.acts, given.seconds, chosen, not given.without_receipts, given.lag)
    folder = Path(tempfile.mkdtemp(prefix="causeloop-receipts-"))
    print(f"seed {plan.seed}, {plan.acts} acts in {plan.seconds:g} s, logs in {folder}", flush=True)
    with Janitor() as janitor:
        campaign = asyncio.run(run(folder, janitor, plan))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report(campaign), indent=2) + "\n")
    print(figures(campaign))
    if plan.receipts and not campaign.holds:
        print(f"DOES NOT HOLD with seed {plan.seed}. The logs of all processes are in {folder}.")
        return 1
    if not plan.receipts and campaign.found.is_whole():
        print(f"Nothing was lost without receipts, with seed {plan.seed}: the campaign proves nothing.")
        return 1
    shutil.rmtree(folder)
    return 0


async def run(folder: Path, janitor: Janitor, plan: Plan) -> Campaign:
    """A campaign against an installation of its own, judged."""
    async with Wire(random.Random(plan.seed)) as wire:
        stack = Stack(folder, janitor, more={"NATS_URL": wire.url, "ACCESS_TOKEN_SECONDS": "3600"})
        wire.aim(lambda: stack.nats.port)
        try:
            await stack.start_all()
            campaign = Campaign(stack, wire, plan, lambda line: print(line, flush=True))
            await campaign.run()
        finally:
            for server in (stack.nats, stack.postgres):
                shutil.copy(server.log, folder)
            await stack.stop_all()
    return campaign


def report(campaign: Campaign) -> dict[str, Any]:
    """Figures, for `receipts.json`."""
    found = campaign.found
    return {
        "seed": campaign.plan.seed,
        "strikes": sorted(campaign.plan.strikes),
        "receipts": campaign.plan.receipts,
        "holds": campaign.holds,
        "lost": found.lost,
        "doubled": found.doubled,
        "events_missing": found.events_missing,
        "events_doubled": found.events_doubled,
        "whole_after_seconds": round(found.seconds, 1),
        "logs": campaign.logs,
        "unseen": campaign.unseen,
        "wire": {f"{kind} {what}": count for (kind, what), count in sorted(campaign.wire.tally.items())},
        **campaign.notes,
    }


def figures(campaign: Campaign) -> str:
    """The figures as text."""
    found, notes, wire = campaign.found, campaign.notes, campaign.wire
    rows = [(kind, *(wire.tally[kind, what] for what in _WHAT)) for kind in KINDS]
    table = [f"{kind:<16}" + "".join(f"{count:>9}" for count in counts) for kind, *counts in (("", *_WHAT), *rows)]
    cuts = f"connections cut: {wire.tally['connection', 'cut']}, of readers: {wire.tally['reader', 'cut']}; "
    stolen = f"ids stolen: {len(notes.get('stolen', ()))}; events published again: {notes['republished']}"
    acts = (
        f"{notes['acts']} acts answered 200 in {notes['took']:.0f} s; answers {dict(sorted(notes['answers'].items()))}"
    )
    lost = f"{found.seconds:.0f} s after the last act, acts without an entry: {len(found.lost)}, with several: "
    events = f"{len(found.doubled)}; of all committed events: {found.events_missing} and {found.events_doubled}"
    logs = ", ".join(f"{count} {what}" for what, count in sorted(campaign.logs.items())) or "none restored"
    lines = [
        *table,
        cuts + stolen,
        acts,
        lost + events,
        *(f"    lost: {act.action} {act.target} of {act.tenant}" for act in found.lost[:_FEW]),
        f"logs: {logs}",
        *(f"    a log does not continue: {refusal[:160]}" for refusal in notes["broken"][:_FEW]),
        f"clients of streams: {len(campaign.unseen)} breaches",
        *(f"    {breach}" for breach in campaign.unseen[:_FEW]),
        *(f"    a stream ended: {refusal[:160]}" for refusal in notes["refusals"][:_FEW]),
    ]
    return "\n".join(lines)


_WHAT = ("seen", "dropped", "doubled", "delayed")

if __name__ == "__main__":
    sys.exit(main())
