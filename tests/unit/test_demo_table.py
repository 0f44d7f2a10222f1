"""What the demonstration shows: numbers where they are known, "-" where they are not, a log without a terminal."""

import io

import pytest
from rich.console import Console

from hack.demo.comparison import Comparison, Row, differences
from hack.demo.play import History, Outage
from hack.demo.report import print_checks, print_comparison
from hack.demo.table import Screen, cells, footer, line, trace_text
from hack.demo.verdict import Check
from hack.demo.watch import Service, Sight, Trace

SERVICE = Service(
    name="chat",
    mode="Auto",
    replicas=3,
    generation=4,
    ready=True,
    desired=None,
    rule="",
    effective="",
    bottleneck="",
    gpu_percent="",
    savings="",
    recommendations=(),
)
TRACE = Trace(seconds=48.0, length=200.0, description="", arrived=388, late_share=0.033, ttft_p95=9.84, done=False)


def sight(at=0.0):
    return Sight(
        at=at,
        services={"chat": SERVICE},
        scaler=None,
        metric=None,
        trace=TRACE,
        idle_gpus="23",
        emptyable_nodes="1",
        cluster_savings="",
        leading=None,
    )


@pytest.fixture
def written():
    return io.StringIO()


def test_what_is_not_known_is_never_shown_as_zero():
    assert cells(SERVICE) == ("chat", "Auto", "3", "-", "-", "-", "-", "-", "-", "-", "-")


def test_the_line_says_the_same_as_the_table():
    text = line(sight(), "leads (pid 7)")
    assert "operator leads (pid 7)" in text
    assert "load 48 of 200 s, 388 requests, 3.3% late, TTFT p95 9.8 s" in text
    assert "chat 3 replicas (desired -, serving -, waiting -, -)" in text


def test_a_load_that_has_not_begun_says_so():
    assert trace_text(None) == "-"
    assert (
        trace_text(Trace(seconds=None, length=1, description="", arrived=0, late_share=0, ttft_p95=None, done=False))
        == "not begun"
    )


def test_without_a_terminal_a_line_is_written_every_ten_seconds(written):
    with Screen(Console(file=written, width=200)) as screen:
        for second in range(21):
            screen.show(sight(at=float(second)), "leads (pid 7)")
    assert written.getvalue().count("388 requests") == 3


def test_in_a_terminal_the_table_is_shown_with_the_operators_state(written):
    console = Console(file=written, width=160, force_terminal=True)
    with Screen(console) as screen:
        screen.show(sight(), "KILLED 2 s ago (SIGKILL); the HPA holds what runs")
        screen.say("the operator is killed")
    assert "bottleneck" in written.getvalue()
    assert "KILLED 2 s ago" in written.getvalue()
    assert "the operator is killed" in written.getvalue()
    assert "23 idle GPUs" in footer(sight(), "")


def test_the_operators_state_follows_its_death_and_return():
    outage = Outage(killed_at=10.0, killed_pid=1, replicas=3, trace_seconds=30.0)
    assert outage.describe(12.0) == "KILLED 2 s ago (SIGKILL); the HPA holds what runs"
    outage.restarted_at, outage.new_pid = 15.0, 2
    assert outage.describe(16.0) == "restarted 1 s ago (pid 2), takes the Lease"
    outage.leading_at = 18.0
    assert "leads again (pid 2), measures before it decides" in outage.describe(19.0)
    outage.metric_back_at = 25.0
    assert outage.describe(30.0) == "leads (pid 2), killed and back: 15 s without a metric"


COMPARISON = Comparison(
    rows=(
        Row(scaler="ours", gpu_hours=0.36, late_share=0.01, ttft_p95=5.0, peak=8, ours=True),
        Row(scaler="dear", gpu_hours=0.4, late_share=0.0, ttft_p95=2.0, peak=8),
        Row(scaler="cheap", gpu_hours=0.3, late_share=0.12, ttft_p95=None, peak=5),
    ),
    load="azure, shaped",
    horizon_seconds=230,
    late_after_seconds=10,
    startup_seconds=15,
)


def test_the_comparison_says_where_ours_is_worse():
    assert differences(COMPARISON) == [
        "against dear: GPU-hours -10%, late +1.0 points, TTFT p95 +3.0 s",
        "against cheap: GPU-hours +20%, late -11.0 points",
    ]


def test_the_comparison_shows_what_was_done_to_the_load_and_what_was_counted(written):
    print_comparison(Console(file=written, width=160), COMPARISON, history=History(sights=[sight()]))
    assert "azure, shaped" in written.getvalue()
    assert "0.360" in written.getvalue()
    assert "388 requests, 3.30% late" in written.getvalue()


def test_a_failed_check_shows_what_was_seen(written):
    checks = [Check("it rose", holds=True, seen="4 replicas"), Check("it fell", holds=False, seen="[8] at the end")]
    print_checks(Console(file=written, width=100), checks)
    assert "✔ it rose" in written.getvalue()
    assert "✘ it fell\n    [8] at the end" in written.getvalue()
