"""What the previous version learned is read by today's operator, and what today's learned by the previous one's."""

import pytest

from tests import previous_version


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """The previous version's own code."""
    found = previous_version.source(tmp_path_factory.mktemp("previous"))
    if found is None:
        pytest.skip(f"this clone has no history: commit {previous_version.COMMIT[:12]} is not in it")
    return found


@pytest.mark.parametrize("forward", [True, False], ids=["upgrade", "rollback"])
def test_checkpoints_are_read_both_ways(code, forward):
    writer, reader = (code, None) if forward else (None, code)
    written = previous_version.learned("svc", "vllm", uid="u", code=writer)
    known = previous_version.remembered(written, code=writer)
    assert len(known["vllm"]) == previous_version.HOURS * 3600 // previous_version.STEP_SECONDS
    assert previous_version.remembered(written, code=reader) == known
