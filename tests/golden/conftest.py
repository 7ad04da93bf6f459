import pytest

from tests.cluster.binaries import binary


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="write what the code now makes")


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    """Built outside of any test's own time: the first run on a machine takes minutes."""
    for name in ("helm", "gitops"):
        binary(name)
