"""The workers of jobs, and the three commands about jobs, the same in every service.

    takes     due jobs of all tenants, by the jobs role: the oldest first, each under a lease
    runs      a job's steps by the service's role, each in a transaction of the job's tenant
    commands  list, show, cancel

Each replica has a worker. A commit that enqueues a job wakes those of all replicas over the bus; they also look every
second. A job that runs long gives its place to the next one that is due, and goes on after it.
"""

from causeloop_common.worker.commands import JobService
from causeloop_common.worker.runs import Runs, StepOf
from causeloop_common.worker.takes import Worker

__all__ = ["JobService", "Runs", "StepOf", "Worker"]
