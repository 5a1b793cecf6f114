"""The order of the tests, and how `pytest -n` shares them among its workers.

A worker is a process with servers of its own. It takes one folder after the other, so that what a folder's tests share
is made once; the folders with the most tests marked `slow` or `chaos` come first, so that no worker is left with a long
one at the end. Tests marked `alone` measure time. They come last: one worker runs them when the others have ended.

The process that shares out the work knows the tests by their ids alone, not by their marks. The workers therefore write
down how many tests at the end of their collection run alone, in a file whose path they are given.
"""

import os
import re
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

ALONE = "alone"
COUNT = pytest.StashKey[Path]()
_CASE = re.compile(r"[DEFP]\d+(, [DEFP]\d+)*: ")
"""How the docstring of a test begins that keeps something mended that outsiders broke: with the case's name."""


class FolderByFolder(LoadScopeScheduling):
    """Shares out folders in the order of collection, and the tests that run alone as if they were one more folder."""

    def __init__(self, config: pytest.Config, log: Producer, count: Path) -> None:
        """Set up; `count` is the file that has the number of tests that run alone, once they are collected."""
        super().__init__(config, log)
        self._count = count
        self._alone: set[str] = set()

    def schedule(self) -> None:
        if self.collection is None and self._count.exists():  # else there is nothing to run: a path was wrong
            collected = next(iter(self.registered_collections.values()))
            self._alone.update(collected[len(collected) - int(self._count.read_text()) :])
        super().schedule()

    def remove_node(self, node: WorkerController) -> str | None:
        crashed = super().remove_node(node)
        if ALONE in self.workqueue:
            self.workqueue.move_to_end(ALONE)  # what a worker that crashed has left comes before it
        for other in self.nodes:
            self._reschedule(other)
        return crashed

    def _split_scope(self, nodeid: str) -> str:
        return ALONE if nodeid in self._alone else nodeid.partition("::")[0].rpartition("/")[0]

    def _assign_work_unit(self, node: WorkerController) -> None:
        if self._has_work_for(node):
            super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        if self._has_work_for(node):
            super()._reschedule(node)
        elif not node.shutting_down and any(not other.shutting_down for other in self.nodes if other is not node):
            node.shutdown()  # when it has run what it was given; the last one to stay runs the tests that run alone

    def _has_work_for(self, node: WorkerController) -> bool:
        return next(iter(self.workqueue), None) != ALONE or self.nodes == [node]


def pytest_configure(config: pytest.Config) -> None:
    """Make a place for the file."""
    folder = tempfile.TemporaryDirectory(prefix="causeloop-tests-")
    config.add_cleanup(folder.cleanup)
    config.stash[COUNT] = Path(folder.name, ALONE)


@pytest.hookimpl(tryfirst=True)  # or `-m cases` would have chosen already
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of cases; put slow folders first and what runs alone last."""
    for item in items:
        if _CASE.match(getattr(item, "function", item).__doc__ or ""):
            item.add_marker("cases")

    def marked(item: pytest.Item, *names: str) -> bool:
        return any(item.get_closest_marker(name) for name in names)

    long = Counter(item.path.parent for item in items if marked(item, "slow", "chaos"))
    items.sort(key=lambda item: (marked(item, ALONE), -long[item.path.parent]))
    if hasattr(config, "workerinput"):
        Path(config.workerinput[ALONE]).write_text(str(sum(marked(item, ALONE) for item in items)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are processors, since tests wait as much as they compute; each takes a gigabyte."""
    return min((os.cpu_count() or 1) + 1, 6)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    """Give a worker the path where it writes down how many tests run alone."""
    node.workerinput[ALONE] = str(node.config.stash[COUNT])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Share out the tests of `pytest -n`."""
    config.option.loadscopereorder = False
    return FolderByFolder(config, log, config.stash[COUNT])
