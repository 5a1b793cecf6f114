"""`causeloop events`: the stream of events, as its operator handles it.

`purge` removes from every stream what all its consumers have acknowledged, so that a stream that fills up takes new
events again. Events that are not in the logs yet stay. A copy of audit's database that is older than the purge cannot
be completed from the stream any more.
"""

import argparse

from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo

from causeloop_cli import operating
from causeloop_common.contracts import topology


def main(options: argparse.Namespace) -> int:
    """Purge the streams."""
    return operating.run(_purge)


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
