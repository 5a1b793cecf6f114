"""`causeloop audit verify`: a log, an export, a checkpoint or a proof, step by step, trusting only a key.

causeloop audit verify                      the log at the gateway, as it is now
causeloop audit verify log.ndjson           an export, offline
causeloop audit verify evt_….tlog-proof     one entry, offline

Offline it does what `causeloop-verify` of libs/log does.

--key     the log's verifier key, or a file that has it: the one you pinned when you first saw the log
--allow-withheld    entries of which only the hash is left are accepted, and counted in the verdict
--kept    a file that has the checkpoint of your last verification; replaced after each one that holds
"""

import argparse
from pathlib import Path

from causeloop_cli.audit import client, log
from causeloop_client import Problem
from causeloop_log import command
from causeloop_log.verification import Refused, Verdict, Verification


def main(options: argparse.Namespace) -> int:
    """0 when every step held, 1 and the step that did not; what cannot be read is neither."""
    pinned = command.key(options.key) if options.key else None
    kept = Path(options.kept) if options.kept else None

    def verify(verification: Verification) -> Verdict:
        if options.file is not None:
            return command.verify_file(verification, options.file, pinned, kept)
        with client.gateway(options) as gateway:
            try:
                head = log.head(gateway)
            except Problem as problem:
                if problem.code != "conflict":
                    raise
                raise Refused(2, "checkpoint", problem.detail.removesuffix(".")) from problem
            leaves = log.leaves(gateway, log.size_of(head.checkpoint))
            return command.verify_log(verification, head, leaves, pinned, kept)

    return 0 if command.run(verify, pinned=pinned is not None, allow_withheld=options.allow_withheld) else 1
