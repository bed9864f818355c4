"""The made photos that the tests of marks share."""

import pytest

from tests.training.evaluation.marks.made import Made


@pytest.fixture(scope="session")
def made() -> Made:
    """Return the made photos."""
    return Made()
