"""`causeloop audit proof`: the proof that an entry is in the log, as a file for anybody's tools (C2SP tlog-proof)."""

import argparse

from causeloop_cli.audit import client
from causeloop_cli.audit.writing import written
from causeloop_client.calls import GetEventProof
from causeloop_log.tlog.proof import SUFFIX


def main(options: argparse.Namespace) -> int:
    """Write the file; it has the entry in it."""
    target = options.to or f"{options.event}{SUFFIX}"
    with client.gateway(options) as gateway, written(target, replace=options.force) as (file, note):
        file.write(str(gateway.send(GetEventProof(id=options.event))["tlog_proof"]).encode())
    note(f"{target}. Verify it with: causeloop audit verify {target} --key …")
    return 0
