"""A verification as a person sees it: a line for each step, then the verdict.

`causeloop-verify` and `causeloop audit verify` are both this.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from causeloop_log import export_file, files
from causeloop_log.export_file import Head
from causeloop_log.files import Unusable
from causeloop_log.tlog import NotVerified
from causeloop_log.tlog.note import VerifierKey
from causeloop_log.tlog.proof import START as PROOF
from causeloop_log.verification import Leaf, Refused, Step, Verdict, Verification


def run(verify: Callable[[Verification], Verdict], *, pinned: bool, allow_withheld: bool = False) -> bool:
    """Whether a verification holds, printed step by step. `allow_withheld`: of entries the hash alone is enough."""
    try:
        verdict = verify(Verification(_print_step, allow_withheld=allow_withheld))
    except Refused as refused:
        why = f"{refused.why[:1].upper()}{refused.why[1:]}."
        print(f"  {refused.number}  FAILED  {refused.name:<13} {printable(why)}")
        print(f"\nNOT VERIFIED: step {refused.number}, {refused.name}.")
        return False
    withheld = f", {verdict.pruned} of them WITHHELD, without content" if verdict.pruned else ""
    print(f"\nVERIFIED: {printable(verdict.checkpoint.origin)}, {verdict.checkpoint.size} entries{withheld}.")
    if not pinned:
        print("The key came with the log, as a forger's key would come with a forged log. Pin the log's with --key.")
    for line in verdict.shown.splitlines():
        print(printable(line))
    return True


def verify_file(verification: Verification, name: str, pinned: str | None, kept: Path | None) -> Verdict:
    """Verify an export, a checkpoint or a proof, whichever the file is; - is standard input."""
    with files.opened(name) as file:
        line = file.readline(export_file.LONGEST_LINE)
        files.unchanged(name, line)
        if line.startswith(export_file.START):
            head, leaves = export_file.read_after(line, file)
            return verify_log(verification, head, leaves, pinned, kept)
        content = files.content(name, file, line)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise Refused(2, "checkpoint", "the file is not UTF-8 text") from error
    if pinned is None:
        raise Unusable("A checkpoint or a proof has no key in it: give the log's with --key.")
    if text.startswith(PROOF):
        if kept is not None:
            raise Unusable(
                "--kept is for a log or a checkpoint: the proof of one entry shows nothing about the others."
            )
        return verification.proof(pinned, text)
    return verification.checkpoint(pinned, text, None if kept is None else files.text(str(kept)))


def verify_log(
    verification: Verification, head: Head, leaves: Iterable[Leaf], pinned: str | None, kept: Path | None
) -> Verdict:
    """Verify a whole log; when it holds, its checkpoint takes the place of the one kept before."""
    verdict = verification.log(head.key, pinned, head.checkpoint, leaves, _text_kept(kept))
    if kept is not None:
        with files.replacing(kept) as file:
            file.write(head.checkpoint.encode())
        print(f"     kept    checkpoint    For the next time, in {printable(str(kept))}.")
    return verdict


def key(option: str) -> str:
    """A verifier key, given as it is written or as the name of a file that has it; Unusable when it is none."""
    found = option if option.count("+") >= 2 and not _exists(option) else files.text(option)
    try:
        VerifierKey.parse(found)
    except NotVerified as error:
        why = "it is JSON, and `Accept: text/plain` gets the text" if found.lstrip().startswith("{") else str(error)
        raise Unusable(f"--key has no verifier key, such as example.com/log/ws_…+0123abcd+AZ…: {why}.") from error
    return found


def printable(text: str) -> str:
    """A text without the characters that a terminal obeys: some of it comes from the log."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _exists(name: str | Path) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # such as a name that is too long: a key, perhaps
        return False


def _text_kept(path: Path | None) -> str | None:
    if path is None or not _exists(path):
        return None
    kept = files.text(str(path))
    line, newline, _ = kept.encode().partition(b"\n")
    files.unchanged(str(path), line + newline)
    return kept


def _print_step(step: Step) -> None:
    print(f"  {step.number}  ok      {step.name:<13} {printable(step.finding)}", flush=True)
