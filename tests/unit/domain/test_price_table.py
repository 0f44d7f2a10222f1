"""The table of node prices: what matches, and which row is wrong."""

import re
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.node_market import market_of
from optiinfra.domain.price_table import MOST_BYTES, MOST_ROWS, Described, PriceTable, read_table
from optiinfra.domain.readings import Unknown
from optiinfra.domain.scaler.variant import CapacityType

ROOT = Path(__file__).resolve().parents[3]
HEAD = "match,node_hour,gpu_hour,cpu_core_hour,memory_gib_hour,currency,as_of\n"


def table(text: str) -> PriceTable:
    found = read_table(HEAD + text, name="ConfigMap o/p")
    assert isinstance(found, PriceTable), found
    return found


def described(name: str = "n1", gpu: str = "NVIDIA-H100-80GB-HBM3", pool: str = "h100", **labels: str) -> Described:
    written = {key.replace("__", "/").replace("_", "."): value for key, value in labels.items()}
    return Described(name, pool, gpu, written, market_of(written))


P5 = {"node_kubernetes_io__instance-type": "p5.48xlarge", "topology_kubernetes_io__region": "us-east-1"}


def test_the_first_row_that_matches_counts():
    rows = table(
        "node=n1,10,,,,USD,2026-11-01\n"
        "instance=p5.*;capacity=spot,20,,,,USD,\n"
        "instance=p5.*,40,,,,USD,\n"
        "gpu=h100,,2.49,,,USD,\n"
    )
    assert rows.row_for(described(**P5)).node_hour == 10
    assert rows.row_for(described("n2", **P5)).node_hour == 40
    spot = rows.row_for(described("n2", **P5, karpenter_sh__capacity="x", **{"karpenter_sh__capacity-type": "spot"}))
    assert spot.node_hour == 20
    assert spot.names_capacity
    assert rows.row_for(described("n3")).gpu_hour == 2.49
    assert rows.row_for(described("n3", gpu="NVIDIA L4")) is None


@pytest.mark.parametrize(
    ("match", "matches"),
    [
        ("pool=h*", True),
        ("pool=l4", False),
        ("region=US-EAST-1", True),
        ("zone=us-east-1a", False),
        ("example.com/tier=gold", True),
        ("example.com/tier=silver", False),
        ("example.com/none=*", True),
        ("gpu=H100 80GB", True),
        ("capacity=on-demand", True),
        ("capacity=reserved", False),
        ("instance=p5.48xlarge;region=us-east-1;gpu=H100", True),
        ("instance=p5.48xlarge;region=us-west-2", False),
    ],
)
def test_conditions(match, matches):
    row = table(f"{match},1,,,,USD,\n").row_for(described(**P5, example_com__tier="gold"))
    assert (row is not None) is matches


def test_comments_empty_lines_and_other_orders_of_columns_are_fine():
    found = read_table("# prices\n\ncurrency,match,gpu_hour\n  \nEUR , gpu=L4 , 0.6\n", name="x")
    assert isinstance(found, PriceTable)
    assert (found.rows[0].gpu_hour, found.rows[0].currency, found.rows[0].number) == (0.6, "EUR", 5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the table is empty"),
        ("price,match\n", "column 'price' is not known"),
        ("match,node_hour\nnode=a,1\n", "columns are missing"),
        (HEAD + "node=a,0,,,,USD,\n", "row 2: node_hour '0' is not an amount above 0"),
        (HEAD + "node=a,-3,,,,USD,\n", "row 2: node_hour '-3' is not an amount above 0"),
        (HEAD + "node=a,1e9,,,,USD,\n", "row 2: node_hour '1e9'"),
        (HEAD + "node=a,nan,,,,USD,\n", "row 2: node_hour 'nan'"),
        (HEAD + "node=a,200000,,,,USD,\n", "at most 100000"),
        (HEAD + "node=a,$3,,,,USD,\n", "write one like 2.50"),
        (HEAD + "node=a,3,2,,,USD,\n", "row 2: node_hour is the whole node"),
        (HEAD + "node=a,,,,,USD,\n", "row 2: no price"),
        (HEAD + "node=a,1,,,,usd,\n", "row 2: currency 'usd'"),
        (HEAD + "node=a,1,,,,USD,yesterday\n", "row 2: as_of 'yesterday'"),
        (HEAD + "node=a,1,,,USD\n", "row 2: 5 cells under 7 columns"),
        (HEAD + "nope=a,1,,,,USD,\n", "row 2: match 'nope' is not known"),
        (HEAD + "node,1,,,,USD,\n", "row 2: match 'node': write conditions"),
        (HEAD + "capacity=cheap,1,,,,USD,\n", "row 2: capacity 'cheap'"),
        (HEAD + "gpu=--,1,,,,USD,\n", "row 2: gpu '--'"),
        (HEAD + "node=a;node=b,1,,,,USD,\n", "stands there twice"),
        (HEAD + "node=a;pool=b,1,,,,USD,\n\npool=b;node=a,2,,,,USD,\n", "row 4: matches what row 2 matches"),
        (HEAD + "x" * MOST_BYTES, "larger than 256 KiB"),
        (HEAD + "".join(f"node=n{i},1,,,,USD,\n" for i in range(MOST_ROWS + 1)), "2001 rows, at most 2000"),
        (
            HEAD + "".join(f"node=n{i}*,1,,,,USD,\n" for i in range(201)),
            "201 rows match by * or gpu alone, at most 200",
        ),
        (HEAD + ";".join(f"e.x/{i}=a" for i in range(9)) + ",1,,,,USD,\n", "9 conditions, at most 8"),
    ],
)
def test_one_wrong_row_is_named_with_its_remedy(text, words):
    found = read_table(text, name="ConfigMap o/p")
    assert isinstance(found, Unknown)
    assert words in found.detail
    assert found.detail.startswith("ConfigMap o/p: ")
    assert "\n" not in found.detail
    assert len(found.detail) < 400


VALUES = st.sampled_from(["a", "b", "a*", "*", "?"])
ROW = st.dictionaries(st.sampled_from(["node", "instance", "pool", "zone", "e.x/t", "e.x/u"]), VALUES, min_size=1)


@given(
    rows=st.lists(ROW, min_size=1, max_size=12),
    seen=st.fixed_dictionaries({key: st.sampled_from("abcAB") for key in "nipztu"}),
)
def test_the_index_finds_what_comparing_every_row_finds(rows, seen):
    lines = {";".join(f"{key}={value}" for key, value in sorted(row.items())): None for row in rows}
    rows = table("".join(f"{line},{number + 1},,,,USD,\n" for number, line in enumerate(lines)))
    labels = {
        "node.kubernetes.io/instance-type": seen["i"],
        "topology.kubernetes.io/zone": seen["z"],
        "e.x/t": seen["t"],
        "e.x/u": seen["u"],
    }
    one = Described(seen["n"], seen["p"], "", labels, market_of(labels))
    assert rows.row_for(one) == next((row for row in rows.rows if row.matches(one)), None)


@given(st.text(max_size=300))
def test_whatever_is_written_is_a_table_or_says_why_not(text):
    found = read_table(HEAD + text, name="x")
    assert isinstance(found, PriceTable | Unknown)
    if isinstance(found, PriceTable):
        for row in found.rows:
            assert any(price for price in (row.node_hour, row.gpu_hour, row.cpu_core_hour, row.memory_gib_hour))


@pytest.mark.parametrize("page", ["docs/how-to/prices.md", "examples/node-prices.yaml"])
def test_the_tables_that_people_copy_can_be_read(page):
    text = (ROOT / page).read_text()
    block = re.search(r"prices\.csv: \|\n((?:    .*\n)+)", text)
    assert block is not None
    found = read_table(textwrap.dedent(block[1]), name=page)
    assert isinstance(found, PriceTable), found
    assert len(found.rows) >= 4


@pytest.mark.parametrize(
    ("labels", "capacity"),
    [
        ({}, CapacityType.ON_DEMAND),
        ({"karpenter.sh/capacity-type": "spot"}, CapacityType.SPOT),
        ({"karpenter.sh/capacity-type": "on-demand"}, CapacityType.ON_DEMAND),
        ({"karpenter.sh/capacity-type": "reserved"}, CapacityType.RESERVED),
        ({"eks.amazonaws.com/capacityType": "SPOT"}, CapacityType.SPOT),
        ({"eks.amazonaws.com/capacityType": "ON_DEMAND"}, CapacityType.ON_DEMAND),
        ({"eks.amazonaws.com/capacityType": "CAPACITY_BLOCK"}, CapacityType.RESERVED),
        ({"cloud.google.com/gke-spot": "true"}, CapacityType.SPOT),
        ({"cloud.google.com/gke-provisioning": "standard"}, CapacityType.ON_DEMAND),
        ({"kubernetes.azure.com/scalesetpriority": "spot"}, CapacityType.SPOT),
        ({"node.kubernetes.io/lifecycle": "spot"}, CapacityType.SPOT),
    ],
)
def test_how_a_node_is_bought(labels, capacity):
    assert market_of(labels).capacity is capacity


def test_old_labels_count_where_there_are_no_new_ones():
    market = market_of(
        {"beta.kubernetes.io/instance-type": "g5.xlarge", "failure-domain.beta.kubernetes.io/region": "us-east-1"}
    )
    assert (market.instance_type, market.region, market.zone) == ("g5.xlarge", "us-east-1", "")
