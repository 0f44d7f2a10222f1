"""What a reader copies for KEDA is valid by KEDA's own schema, and steps into none of the traps that scale to zero."""

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PLACES = [
    *sorted((ROOT / "examples").glob("*.yaml")),
    ROOT / "docs/how-to/act.md",
    ROOT / "docs/how-to/keda.md",
]
OURS = re.compile(r"optiinfra_desired_replicas|resourceOptimization")


def definitions():
    found = {}
    for document in yaml.safe_load_all((ROOT / "hack/real_keda/crds.yaml").read_text()):
        (version,) = document["spec"]["versions"]
        found[document["spec"]["names"]["kind"]] = closed(version["schema"]["openAPIV3Schema"])
    return found


def closed(schema):
    """The same schema, refusing what it does not name: the API server would drop it silently."""
    if isinstance(schema, dict):
        schema = {key: closed(value) for key, value in schema.items()}
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("pattern", None)
    if isinstance(schema, list):
        schema = [closed(value) for value in schema]
    return schema


def documents():
    for path in PLACES:
        text = path.read_text()
        blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if path.suffix == ".md" else [text]
        for block in blocks:
            for document in yaml.safe_load_all(block):
                if isinstance(document, dict) and str(document.get("apiVersion", "")).startswith("keda.sh/"):
                    yield pytest.param(document, id=f"{path.name}-{document['kind']}")


@pytest.mark.parametrize("document", list(documents()))
def test_it_is_valid_by_kedas_own_schema(document):
    jsonschema.Draft7Validator(definitions()[document["kind"]]).validate(document)


def test_the_schema_refuses_what_it_does_not_know():
    wrong = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "a"}}
    spec = {"scaleTargetRef": {"name": "a"}, "triggers": [{"type": "external", "metadata": {}}], "fallbak": {}}
    with pytest.raises(jsonschema.ValidationError, match="fallbak"):
        jsonschema.Draft7Validator(definitions()["ScaledObject"]).validate(wrong | {"spec": spec})


@pytest.mark.parametrize("document", [each for each in documents() if each.values[0]["kind"] == "ScaledObject"])
def test_a_scaled_object_survives_our_absence(document):
    spec = document["spec"]
    ours = [trigger for trigger in spec["triggers"] if OURS.search(str(trigger["metadata"]))]
    others = [trigger for trigger in spec["triggers"] if trigger not in ours]
    assert len(ours) == 1
    assert others, "a second trigger keeps scaling while OptiInfra is away"
    assert ours[0]["metricType"] == "AverageValue", "with Value the count is multiplied by itself"
    for trigger in spec["triggers"]:
        if trigger["type"] == "prometheus":
            assert trigger["metadata"]["ignoreNullValues"] == "false", "else an absent series counts as zero"
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher", "a missing measurement never shrinks"
    assert spec["fallback"]["replicas"] >= 1, "with 0, KEDA takes a failing trigger for an idle one"
