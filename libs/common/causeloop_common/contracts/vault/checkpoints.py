"""Checkpoints: the vault signs the heads of logs, as a witness."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from causeloop_common.contracts.base import (
    LATER_EPOCH,
    Command,
    Epoch,
    Event,
    Hash,
    Message,
    TenantId,
    Timestamp,
    example_id,
)
from causeloop_common.permissions import Internal, Permission
from causeloop_log.tlog.checkpoint import LARGEST_SIZE
from causeloop_log.tlog.merkle import LONGEST_PROOF

Reason = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]


SIGNED_AT_ONCE = 50
"""The logs of one command. The vault works some milliseconds for so many, and lets others in between."""


class GrownLog(Message):
    """The head of a log, and the proof that it continues the head that was signed last."""

    tenant: TenantId
    old_size: int = Field(ge=0, le=LARGEST_SIZE, description="The size of the head that was signed last.")
    size: int = Field(ge=0, le=LARGEST_SIZE, description="The size of the head to sign.")
    root: Hash = Field(description="The root of the head to sign.")
    proof: list[Hash] = Field(
        max_length=LONGEST_PROOF, description="The consistency proof from `old_size` to `size` (RFC 9162 2.1.4)."
    )


class WitnessedLog(Message):
    """The vault's answer for a head: signed, refused, or, with neither, to be proven from `signed_size`."""

    epoch: Epoch = LATER_EPOCH
    signed_size: int = Field(description="The size of the head that is signed of the log, now or before.")
    checkpoint: str | None = Field(default=None, description="The signed note (C2SP tlog-checkpoint).")
    refused: str | None = Field(default=None, description="Why the log does not continue what was signed of it.")


class SignedCheckpoints(Message):
    """The answers for all logs."""

    logs: list[WitnessedLog] = Field(description="An answer for each log, in the order of the command.")


class SignCheckpoints(
    Command[SignedCheckpoints], permission=Internal.SIGN_CHECKPOINTS, issuers=frozenset({"audit"}), keyed=False
):
    """Sign the heads of logs, of each that only grew since the last one that was signed.

    It is asked in the installation's realm, for tenants that it names. Where `old_size` is not the size last signed,
    the answer has the right one, as with a C2SP tlog-witness.
    """

    logs: list[GrownLog] = Field(min_length=1, max_length=SIGNED_AT_ONCE, description="The logs, each once.")


class AuditKey(Message):
    """The public key that verifies the checkpoints of a tenant's log."""

    origin: str = Field(
        description="The log's name, the first line of its checkpoints.",
        examples=[f"causeloop.localhost/{example_id('ws')}"],
    )
    key: str = Field(
        description="The verifier key, `name+id+base64`, as tools for signed notes read it.",
        examples=[f"causeloop.localhost/{example_id('ws')}+3f2a9c1b+AS4G…"],
    )
    epoch: Epoch = 1
    algorithm: Literal["ed25519"] = Field(default="ed25519", description="The signature's algorithm.")
    created_at: Timestamp = Field(description="The time of the key's creation.")


class GetAuditKey(Command[AuditKey], permission=Permission.AUDIT_READ, keyed=False):
    """Show the key that verifies the log.

    It verifies the checkpoints of the workspace's log. Keep it: with it nobody can show you another log. Ask for
    `text/plain` to get the verifier key alone. The key of a later epoch has another name, so the one you keep refuses
    what is signed in that epoch.
    """


class SigningKeyCreated(Event, target="public_key"):
    """The installation's signing key for checkpoints was made."""

    public_key: Hash = Field(description="The Ed25519 public key, 32 bytes in hex.")
    origin: str = Field(description="The first part of the logs' names.")


class EpochOpened(Event, target="origin"):
    """An operator opened a new epoch of the log, since it could not continue what was signed of it."""

    epoch: int = Field(ge=2, description="The epoch that begins.")
    origin: str = Field(description="The log's name from now on.")
    ended_size: int = Field(ge=0, le=2**53, description="How many entries were signed in the epoch before, at last.")
    ended_root: Hash = Field(description="The root of these entries, in hex.")
    reason: Reason = Field(description="Why the log could not continue, in the operator's words.")
