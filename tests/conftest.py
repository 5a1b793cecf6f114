"""Fixtures of the tests that cross services.

stack      the whole house, shared by the run: tests keep to people and workspaces of their own
collector  takes the traces and metrics of that house
fragile    one more, without a collector, for tests that kill what they like and start it again
tell       a line for the end of the run: what was counted
"""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from xdist.workermanage import WorkerController

from causeloop_cli.embedded import Janitor
from tests.support.collector import Collector
from tests.support.stack import Person, Stack

_COUNTED = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def janitor() -> Iterator[Janitor]:
    with Janitor() as janitor:
        yield janitor


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="session")
async def stack(
    janitor: Janitor, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_METRIC_EXPORT_INTERVAL": "1000"}
    house = Stack(tmp_path_factory.mktemp("stack"), janitor, observed=True, more=traced)
    try:
        await house.start_all()
        yield house
    finally:
        await house.stop_all()


@pytest.fixture(scope="session")
async def fragile(janitor: Janitor, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    # Where the moment of a commit is aimed at, none may come in between that nobody asked for.
    house = Stack(tmp_path_factory.mktemp("fragile"), janitor, more={"CHECKPOINT_SECONDS": "3600"})
    try:
        await house.start_all()
        yield house
    finally:
        await house.stop_all()


@pytest.fixture
async def owner(stack: Stack) -> Person:
    return await stack.sign_up()


@pytest.fixture
async def stranger(stack: Stack) -> Person:
    return await stack.sign_up()


@pytest.fixture(scope="session")
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    return request.config.stash[_COUNTED].append


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_COUNTED] = []


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["counted"] = session.config.stash[_COUNTED]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController) -> None:
    node.config.stash[_COUNTED] += getattr(node, "workeroutput", {}).get("counted", [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if lines := config.stash[_COUNTED]:
        terminalreporter.section("counted")
        for line in lines:
            terminalreporter.write_line(line)
