"""`causeloop audit verify`: a log, an export of it, or the proof of one entry, step by step, trusting only a key.

causeloop audit verify                      the log at the gateway, as it is now
causeloop audit verify log.ndjson           an export, offline
causeloop audit verify evt_….tlog-proof     one entry, offline

--key     the log's verifier key, or a file that has it: what you pinned when you first saw the log
--kept    a file that has the last checkpoint you saw; made anew after each look that held
"""

import argparse
from pathlib import Path

from causeloop_cli.audit import client, files, log
from causeloop_common.errors import Conflict
from causeloop_common.settings import SettingsError
from causeloop_log import export_file
from causeloop_log.tlog.checkpoint import Checkpoint
from causeloop_log.verification import Refused, Step, Verification

_SHOWN = "Shown: these entries, in this order, none changed and none missing. Not shown: that each tells the truth."
_SHOWN_OF_ONE = "Shown: this entry is in that log, at that place. Not shown: that it tells the truth."


def main(options: argparse.Namespace) -> int:
    """0 when every step held; 1 and the step that did not."""
    verification = Verification(_tell)
    try:
        checkpoint = _verified(options, verification)
    except Refused as refused:
        print(f"  {refused.number}  FAILED  {refused.name:<13} {_sentence(refused.why)}")
        print(f"\nNOT VERIFIED: step {refused.number}, {refused.name}.")
        return 1
    print(f"\nVERIFIED: {_printable(checkpoint.origin)}, {checkpoint.size} entries.")
    if options.key is None:
        print("By a key that the log itself told: whoever could forge the log could tell another. Pin it with --key.")
    print(_SHOWN_OF_ONE if options.file and not _is_export(options.file) else _SHOWN)
    return 0


def _verified(options: argparse.Namespace, verification: Verification) -> Checkpoint:
    pinned = _pinned(options.key) if options.key else None
    kept_in = Path(options.kept) if options.kept else None
    kept = files.text(str(kept_in)) if kept_in is not None and kept_in.exists() else None
    if options.file is None:
        gateway = client.gateway(options)
        try:
            head = log.head(gateway)
        except Conflict as error:
            raise Refused(2, "checkpoint", error.detail.removesuffix(".")) from error
        leaves = log.leaves(gateway, log.size_of(head.checkpoint))
        checkpoint = verification.log(head.key, pinned, head.checkpoint, leaves, kept)
    elif _is_export(options.file):
        with Path(options.file).open("rb") as file:
            head, leaves = export_file.read(file)
            checkpoint = verification.log(head.key, pinned, head.checkpoint, leaves, kept)
    elif kept_in is not None:
        raise SettingsError("--kept is for a whole log: the proof of one entry cannot tell whether the rest only grew.")
    else:
        return verification.proof(None, pinned, files.text(options.file))
    if kept_in is not None:
        _keep(kept_in, head.checkpoint)
    return checkpoint


def _tell(step: Step) -> None:
    print(f"  {step.number}  ok      {step.name:<13} {_printable(step.told)}", flush=True)


def _sentence(why: str) -> str:
    return _printable(f"{why[:1].upper()}{why[1:]}.")


def _printable(text: str) -> str:
    """Without what a terminal would obey: some of it comes from the log."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _is_export(name: str) -> bool:
    try:
        return export_file.is_export(Path(name))
    except OSError as error:
        raise SettingsError(f"{name} cannot be read: {error.strerror}.") from error


def _pinned(key: str) -> str:
    """A verifier key that stands for itself, or that a file has."""
    return key if key.count("+") >= 2 and not Path(key).exists() else files.text(key)


def _keep(path: Path, checkpoint: str) -> None:
    """The newest checkpoint in place of the one before."""
    with files.replacing(path) as file:
        file.write(checkpoint.encode())
    print(f"     kept    checkpoint    For the next look, in {path}.")
