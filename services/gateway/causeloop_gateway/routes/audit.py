"""Routes of audit: the workspace's log, and proofs about it."""

from causeloop_common.contracts import audit, vault
from causeloop_common.errors import Conflict, NotFound, RateLimited
from causeloop_gateway.endpoints import Endpoint

_NO_EVENT = NotFound("There is no such event in this workspace's log. It may still be on its way: try again.")
_NOT_SIGNED = Conflict("The log grew faster than it could be signed. Try again.")
_CHANGED = Conflict("Entry 7 of the log was changed after it was entered. An operator must look at it.")
_NOT_COME = NotFound(
    "No entry of 'req_01h455vb4pex5vsknk084sn02q' came within 3 s. It may still be on its way: try again. An act that "
    "was refused has none."
)
ENDPOINTS = (
    Endpoint("GET", "/audit/events", audit.ListEvents, errors=(_CHANGED, _NOT_COME)),
    Endpoint("GET", "/audit/events/{id}", audit.GetEvent, errors=(_NO_EVENT, _CHANGED)),
    Endpoint(
        "GET", "/audit/events/{id}/proof", audit.GetEventProof, text="tlog_proof", errors=(_NO_EVENT, _NOT_SIGNED),
    ),
    Endpoint("GET", "/audit/checkpoint", audit.GetCheckpoint, text="checkpoint", errors=(_NOT_SIGNED,)),
    Endpoint(
        "GET", "/audit/consistency", audit.GetConsistency,
        errors=(
            Conflict(
                "The log does not continue what was signed of it: entries or nodes of it are missing. An operator must "
                "look at it: `causeloop audit recover`."
            ),
        ),
    ),
    Endpoint("GET", "/audit/key", vault.GetAuditKey, text="key"),
)  # fmt: skip
STREAM = Endpoint(
    "GET", "/audit/stream", audit.ReadStream,
    errors=(
        Conflict(
            "The log has 12 entries, and this would go on at 43: it is not the log that was read before, or was "
            "restored to an earlier state. Compare it with what you hold, then begin with from=0."
        ),
        RateLimited("10 streams of yours are open, and no more may be. Close one, or try again later.", retry_after=30),
    ),
)  # fmt: skip
