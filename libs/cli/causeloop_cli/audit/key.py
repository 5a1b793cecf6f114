"""`causeloop audit key`: the log's verifier key, as the gateway gives it. Pin it over a channel that you trust."""

import argparse

from causeloop_cli.audit import client
from causeloop_cli.audit.writing import written
from causeloop_client.calls import GetAuditKey


def main(options: argparse.Namespace) -> int:
    """Print the key, or write its file, whole or not at all."""
    with client.gateway(options) as gateway, written(options.to or "-", replace=options.force) as (file, note):
        file.write(f"{gateway.send(GetAuditKey())['key']}\n".encode())
    if options.to:
        note(f"The key is in {options.to}. Compare it with the one that the log's owner gives you.")
    return 0
