"""`causeloop audit export`: the whole log in one file, with its checkpoint and key, to be verified anywhere."""

import argparse
from pathlib import Path

from causeloop_cli.audit import client, log
from causeloop_log import export_file, files


def main(options: argparse.Namespace) -> int:
    """Write the file, whole or not at all."""
    target = Path(options.to)
    with client.gateway(options) as gateway, files.replacing(target) as file:
        head = log.head(gateway)
        count = export_file.write(file, head, log.leaves(gateway, log.size_of(head.checkpoint)))
    print(f"{count} entries in {target}. Verify them with: causeloop audit verify {target} --key …")
    return 0
