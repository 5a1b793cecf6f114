"""`causeloop audit proof`: the proof that an entry is in the log, as a file for anybody's tools (C2SP tlog-proof)."""

import argparse
from pathlib import Path

from causeloop_cli.audit import client
from causeloop_client.calls import GetEventProof
from causeloop_log import files
from causeloop_log.tlog.proof import SUFFIX


def main(options: argparse.Namespace) -> int:
    """Write the file; it has the entry in it."""
    with client.gateway(options) as gateway:
        text = str(gateway.send(GetEventProof(id=options.event))["tlog_proof"])
    target = Path(options.to or f"{options.event}{SUFFIX}")
    with files.replacing(target) as file:
        file.write(text.encode())
    print(f"{target}. Verify it with: causeloop audit verify {target} --key …")
    return 0
