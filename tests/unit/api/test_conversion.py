"""What holds in the end: the object over the cluster's defaults over the built-in values."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from optiinfra.api.conversion import effective
from optiinfra.api.maintenance import is_open
from optiinfra.api.settings import Policy
from optiinfra.api.v1alpha1 import Defaults, MaintenanceWindow, Mode, ResourceOptimizationSpec
from optiinfra.api.v1alpha1.model import ModelSize, WeightType
from optiinfra.domain.evidence import Direction
from optiinfra.domain.model_facts import Attention, ModelFacts
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown

TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "vllm"}


def spec(**fields):
    return ResourceOptimizationSpec.model_validate({"targetRef": TARGET, **fields})


def test_built_in_values_are_those_of_the_page():
    found = effective(spec())
    assert found.interval == 30
    assert {found.mode_for(direction) for direction in Direction} == {Mode.RECOMMEND}
    assert found.objectives == Objectives()
    assert found.policy == Policy(
        max_replica_step=4, max_gpu_step=32, cooldown=300, verify_window=600, rollback=True, maintenance_windows=()
    )
    assert found.insights_enabled
    assert found.daily_token_budget == 50_000
    assert not found.suspended


def test_object_wins_over_cluster_field_by_field():
    defaults = Defaults.model_validate(
        {
            "interval": "15s",
            "mode": "Approve",
            "objectives": {"queueDelay": "1s", "lateShare": "5%"},
            "policy": {"cooldown": "1m", "rollback": False, "maxReplicaStep": 2},
            "insights": {"enabled": False, "dailyTokenBudget": 0},
        }
    )
    found = effective(
        spec(objectives={"queueDelay": "20s"}, policy={"rollback": True, "cooldown": "0s"}, insights={"enabled": True}),
        defaults,
    )
    assert found.interval == 15
    assert found.mode_for(Direction.SCALE_UP) is Mode.APPROVE
    assert found.objectives == Objectives(queue_delay=20, late_share=0.05)
    assert found.policy.cooldown == 0
    assert found.policy.rollback
    assert found.policy.max_replica_step == 2
    assert found.insights_enabled
    assert found.daily_token_budget == 0


def test_modes_per_direction_win_over_mode():
    found = effective(spec(mode="Auto", modes={"scaleDown": "Approve"}))
    assert found.mode_for(Direction.SCALE_UP) is Mode.AUTO
    assert found.mode_for(Direction.SCALE_DOWN) is Mode.APPROVE
    assert found.mode_for(Direction.RESIZE) is Mode.AUTO
    assert found.mode_for(Direction.NONE) is Mode.RECOMMEND  # what has no direction is never applied
    assert found.mode_summary == "Mixed"
    assert effective(spec(mode="Auto")).mode_summary == "Auto"
    assert effective(spec(mode="Auto", suspend=True)).mode_summary == "Suspended"


def test_targets_of_variants_have_their_own_scaling():
    variants = [
        {"name": "spot", "targetRef": TARGET, "maxShare": "60%", "scaling": {"minReplicas": 2}},
        {"name": "rest", "targetRef": TARGET | {"name": "other"}},
    ]
    found = effective(
        ResourceOptimizationSpec.model_validate({"variants": variants, "scaling": {"forecast": {"enabled": False}}})
    )
    spot, rest = found.targets
    assert (spot.name, spot.max_share, spot.scaling.min_replicas) == ("spot", 0.6, 2)
    assert (rest.name, rest.max_share, rest.scaling.forecast.enabled) == ("rest", 1.0, False)
    assert found.target_summary == "spot,rest"
    assert effective(spec()).target_summary == "vllm"


def window(**fields):
    return MaintenanceWindow.model_validate({"days": ["Sat"], "start": "22:30", "duration": "4h"} | fields)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-01-31T22:29:59", False),  # a Saturday
        ("2026-01-31T22:30:00", True),
        ("2026-02-01T02:29:59", True),  # past midnight it is still Saturday's window
        ("2026-02-01T02:30:00", False),
        ("2026-02-01T22:30:00", False),
    ],
)
def test_window(moment, expected):
    now = datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()
    assert is_open([window()], now=now) is expected
    assert is_open([], now=now)


def test_window_in_its_time_zone():
    now = datetime(2026, 7, 4, 20, 45, tzinfo=UTC).timestamp()  # 22:45 in Berlin, in summer
    assert is_open([window(timeZone="Europe/Berlin")], now=now)
    assert not is_open([window()], now=now)
    assert is_open([window(), window(timeZone="Europe/Berlin")], now=now)


def test_window_keeps_its_wall_clock_over_the_change_of_time():
    # Berlin leaves summer time on 2026-10-25 at 03:00; a window of that Sunday at 01:00 stays open 4 real hours
    change = window(days=["Sun"], start="01:00", duration="4h", timeZone="Europe/Berlin")
    opens = datetime(2026, 10, 24, 23, 0, tzinfo=UTC).timestamp()
    assert not is_open([change], now=opens - 1)
    assert is_open([change], now=opens)
    assert is_open([change], now=opens + 4 * 3600 - 1)
    assert not is_open([change], now=opens + 4 * 3600)


def test_a_model_that_is_not_described_has_no_facts():
    found = effective(spec()).model
    assert isinstance(found, ModelFacts)
    assert found.attention is Attention.UNKNOWN
    assert isinstance(found.parameters, Unknown)
    assert "spec.model" in found.layers.detail


def test_a_described_model_is_what_was_said():
    found = effective(
        spec(
            model={
                "family": "chat-7b",
                "parameters": "7.6B",
                "activeParameters": "900M",
                "layers": 28,
                "kvHeads": 4,
                "headSize": 128,
                "dtype": "bfloat16",
                "contextTokens": 32768,
                "attention": "Sliding",
                "windowTokens": 1024,
                "windowedLayers": 24,
            }
        )
    ).model
    assert (found.parameters, found.active_parameters) == (7.6e9, 9e8)
    assert (found.layers, found.kv_heads, found.head_size, found.weight_bytes_each) == (28.0, 4.0, 128.0, 2.0)
    assert (found.context_tokens, found.window_tokens, found.windowed_layers) == (32768.0, 1024.0, 24.0)
    assert found.attention is Attention.SLIDING
    assert isinstance(found.latent_size, Unknown)


@pytest.mark.parametrize(
    ("text", "count"), [("125M", 1.25e8), ("0.5B", 5e8), ("70.553B", 7.0553e10), ("1.04T", 1.04e12)]
)
def test_sizes_of_models(text, count):
    assert ModelSize.check(text).parameters == pytest.approx(count)


@pytest.mark.parametrize(
    "model",
    [
        {"parameters": "8"},
        {"parameters": "8b"},
        {"parameters": "0B"},
        {"parameters": "99999B"},
        {"parameters": 8_000_000_000},
        {"layers": 0},
        {"layers": 1001},
        {"kvHeads": 2000},
        {"headSize": 0},
        {"dtype": "bf16"},
        {"attention": "Unknown"},
        {"contextTokens": 0},
        {"layers": 10, "windowedLayers": 11},
        {"activeParameters": "1B"},
        {"family": "x" * 129},
        {"configMapRef": {}},
        {"configMapRef": {"name": ""}},
        {"configMapRef": {"name": "Llama"}},
        {"configMapRef": {"name": "x" * 254}},
        {"configMapRef": {"name": "llama", "key": ""}},
        {"configMapRef": {"name": "llama", "key": "a/b"}},
        {"configMapRef": {"name": "llama", "key": "x" * 254}},
    ],
)
def test_what_makes_no_model_is_refused(model):
    with pytest.raises(ValidationError):
        spec(model=model)


def test_the_file_of_a_model_is_named_by_config_map_and_key():
    named = spec(model={"configMapRef": {"name": "llama.v1"}, "layers": 30})
    assert (named.model.config_map_ref.name, named.model.config_map_ref.key) == ("llama.v1", "config.json")
    again = ResourceOptimizationSpec.model_validate(named.to_wire())
    assert again == named
    assert (
        spec(model={"configMapRef": {"name": "a", "key": "Llama_8B.json"}}).model.config_map_ref.key == "Llama_8B.json"
    )
    assert spec(model={}).model.config_map_ref is None


def test_every_type_of_weights_has_a_size():
    assert {one.bytes_each for one in WeightType} == {0.53, 0.5625, 1.0, 2.0, 4.0}
