"""Which failures are tried a second time: few, and only of tests that wait for other processes."""

import pytest

from tests.second_try import may_try_again


@pytest.mark.parametrize(
    ("failed", "again"),
    [
        (set(), False),
        ({"tests/apiserver/test_watch.py"}, True),
        ({"tests/controllers/test_demo.py", "tests/apiserver/test_watch.py", "tests/node/test_real_node.py"}, True),
        ({"tests/apiserver/test_watch.py", "tests/unit/test_cluster_signs.py"}, False),
        ({f"tests/apiserver/test_{number}.py" for number in range(4)}, False),
    ],
)
def test_a_second_try_is_for_few_files_on_control_planes(failed: set[str], *, again: bool):
    assert may_try_again(failed) is again
