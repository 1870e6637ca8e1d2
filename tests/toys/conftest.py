import pytest


@pytest.fixture(scope="session")
def trained():
    """Three targets of superposition, trained well."""
    from subscape.toys import ToyTraining, tms

    return tms.many([0, 1, 2], training=ToyTraining(n_steps=500, n_candidates=8))
