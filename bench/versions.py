"""The row `reveal_versions`: what a reveal costs of a secret that was written a thousand times."""

import json

from bench.rows import CONNECTIONS, bed, http_request
from bench.run import Effort, Measure, Row, in_turn, load, median, paired

VERSIONS = 1000
BAR = 1.1


def reveal_versions(effort: Effort) -> Row:
    """p50 of a reveal of a secret with a thousand versions, against one with a single version."""
    body = json.dumps({"value": "s" * 64}).encode()
    with bed() as ready:

        def reveal(path: str, versions: int) -> list[bytes]:
            write = http_request("PUT", f"/v1/secrets/bench/{path}", ready.token, body)
            load(ready.port, [[write] * versions], 0, each=True)
            return [http_request("POST", f"/v1/secrets/bench/{path}/reveal", ready.token)] * CONNECTIONS

        turns = [ready.ours(reveal("often", effort.of(VERSIONS)), effort.seconds)]
        turns.append(ready.ours(reveal("once", 1), effort.seconds))
        often, once = in_turn(turns, effort.rounds)
    ratio = paired(once, often, "p50_ms")
    return Row(
        ours=ratio,
        reference=None,
        peer=None,
        unit="x",
        better="lower",
        bar=f"<= {BAR} x one version",
        holds=ratio <= BAR,
        p50_ms=median(often, "p50_ms"),
        p99_ms=median(often, "p99_ms"),
    )


ROWS: dict[str, Measure] = {"reveal_versions": reveal_versions}
