"""`causeloop events`: the stream of events, as its operator handles it.

`purge` removes from every stream what all its consumers have acknowledged, so that a stream that fills up takes new
events again. Events that are not in the logs yet stay. A copy of audit's database that is older than the purge cannot
be completed from the stream any more.
"""

import argparse

from nats.js import JetStreamContext

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
        infos = [await stream.consumer_info(name, one.name) for one in topology.CONSUMERS if one.stream == name]
        kept = 1 + min(info.ack_floor.stream_seq if info.ack_floor else 0 for info in infos)
        before = (await stream.stream_info(name)).state
        await stream.purge_stream(name, seq=kept)  # its answer does not have the count
        after = (await stream.stream_info(name)).state
        removed[name] = max(after.first_seq - before.first_seq, 0) if before.messages else 0
    return removed
