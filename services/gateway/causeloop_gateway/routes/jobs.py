"""Routes of jobs: those of all services in one list, and each by its id, which names its service."""

from causeloop_common.contracts import jobs
from causeloop_common.errors import NotFound
from causeloop_gateway.endpoints import RECORDED, Asked, Endpoint

_NO_JOB = NotFound("There is no such job in this workspace. Ended ones are kept for 7 days.")
ENDPOINTS = (
    Endpoint("GET", "/jobs", jobs.ListJobs, asked=Asked.EVERY),
    Endpoint("GET", "/jobs/{id}", jobs.GetJob, asked=Asked.NAMED, errors=(_NO_JOB,)),
    Endpoint("DELETE", "/jobs/{id}", jobs.CancelJob, 202, asked=Asked.NAMED, errors=(RECORDED, _NO_JOB)),
)
