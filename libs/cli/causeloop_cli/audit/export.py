"""`causeloop audit export`: the whole log in one file, with its checkpoint and key, to be verified anywhere."""

import argparse

from causeloop_cli.audit import client, log
from causeloop_cli.audit.writing import written
from causeloop_log import export_file


def main(options: argparse.Namespace) -> int:
    """Write the file, whole or not at all."""
    with client.gateway(options) as gateway, written(options.to, replace=options.force) as (file, note):
        head = log.head(gateway)
        count = export_file.write(file, head, log.leaves(gateway, log.size_of(head.checkpoint)))
    note(f"{count} entries in {options.to}. Verify them with: causeloop audit verify {options.to} --key …")
    return 0
