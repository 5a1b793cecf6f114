"""`causeloop events`: the stream of events, as its operator handles it.

`purge` removes from every stream what all its consumers have acknowledged, so that a stream that fills up takes new
events again. Events that are not in the logs yet stay. A restored copy of audit's database is completed from the
stream; what was purged since the copy comes from the outboxes, in another order, and its logs do not continue.

`reconcile` has every service ask the log for its acts since a time: their confirmations are taken back, so that the
relay sends each again, at most 200 a second. The log passes over what it has, enters what it lacks, and receipts both.
It prints how many will be sent again, and how many waited for a receipt before. Nobody lost them, so no alarm follows.
Sent again, an event comes after younger ones of its service. Outboxes are certain to have the events of one day; older
ones may be missing for good, and `reconcile` prints so. The databases are those of the environment, else those of the
`causeloop dev` that runs in this folder; of a service's settings, it reads its database and keys alone.
"""

import argparse
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo

from causeloop_cli import loops, operating, running_dev
from causeloop_cli.doctor import environments
from causeloop_common.contracts import topology
from causeloop_common.contracts.topology import OWNERS
from causeloop_common.relay.reconcile import reconcile
from causeloop_common.settings import RoleSettings, SettingsError

_KEPT = timedelta(days=1)
"""An outbox is certain to have an event for so long."""


def main(options: argparse.Namespace) -> int:
    """Purge the streams, or reconcile outboxes with the log."""
    if options.action == "purge":
        return operating.run(_purge)
    environs, where = environments(os.environ, Path(running_dev.NAME))
    if not OWNERS.keys() & environs.keys():
        raise SettingsError(
            f"No service with an outbox is in {where}: set DATABASE_URL, or the keys of one, such as "
            "CAUSELOOP_KEYS_AUDIT."
        )
    if options.since < datetime.now(UTC) - _KEPT:
        print("Outboxes are certain to have the events of one day: older ones may be gone, and are not sent again.")
    loops.run(_reconcile(environs, options.since))
    return 0


async def _reconcile(environs: Mapping[str, Mapping[str, str]], since: datetime) -> None:
    for name in OWNERS:
        if name in environs:
            role = f"causeloop_{name}_relay"
            print(f"{name}: {await reconcile(RoleSettings.load(name, environs[name]).dsn(role), name, since)}")


async def _purge(stream: JetStreamContext) -> None:
    for name, removed in (await purge(stream)).items():
        print(f"{name}: {removed} messages removed, which all its consumers have had.")


async def purge(stream: JetStreamContext) -> dict[str, int]:
    """Remove from each stream with consumers what all of them have acknowledged; how many messages, by stream."""
    removed = {}
    for name in sorted({consumer.stream for consumer in topology.CONSUMERS}):
        before = (await stream.stream_info(name)).state
        consumers = [one.name for one in topology.CONSUMERS if one.stream == name]
        infos = [await stream.consumer_info(name, consumer) for consumer in consumers]
        await stream.purge_stream(name, seq=1 + min(_had(info, before.last_seq) for info in infos))
        after = (await stream.stream_info(name)).state
        removed[name] = max(after.first_seq - before.first_seq, 0) if before.messages else 0
    return removed


def _had(info: ConsumerInfo, last: int) -> int:
    """The number up to which a consumer has had everything; `last` was the stream's last one before it was asked.

    The acknowledged number of a consumer with a filter stands still while no event of its own comes.
    """
    if not info.num_pending and not info.num_ack_pending:
        return last
    return info.ack_floor.stream_seq if info.ack_floor else 0
