"""The vault's contract, a file per noun.

secrets        values in versions, by path
keys           named keys, and what they encrypt
keyrings       a tenant's data key in versions, and its rotation
sealed_values  values of other services, stored or in their events
checkpoints    signatures of logs' heads
"""

from causeloop_common.contracts import jobs
from causeloop_common.contracts.vault.checkpoints import *  # noqa: F403  all of a noun belongs to the contract
from causeloop_common.contracts.vault.keyrings import *  # noqa: F403
from causeloop_common.contracts.vault.keys import *  # noqa: F403
from causeloop_common.contracts.vault.sealed_values import *  # noqa: F403
from causeloop_common.contracts.vault.secrets import *  # noqa: F403

RETIRED: frozenset[str] = frozenset({"GetLogKey", "SignCheckpoint"})

ListJobs, GetJob, CancelJob = jobs.commands(__name__)
JobCancelled, JobEnded = jobs.events(__name__)
