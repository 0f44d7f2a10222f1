"""The report for machines: one JSON document, its version in it, and its schema from the same types.

A number that is not known is an object with a reason and a detail, never null. The schema is written to
docs/reference/report.schema.json by `python -m optiinfra.cli.report_json`, and a test compares.
"""

import json
import sys
from typing import Any, Final

from pydantic import TypeAdapter

from optiinfra.domain.report.report import VERSION, Report

_ADAPTER: Final = TypeAdapter(Report)


def document(report: Report) -> dict[str, Any]:
    """Return the report as plain values."""
    found: dict[str, Any] = _ADAPTER.dump_python(report, mode="json")
    return found


def text(report: Report) -> str:
    """Return the document; numbers that are not finite cannot be in it."""
    return json.dumps(document(report), indent=1, allow_nan=False, ensure_ascii=True) + "\n"


def schema() -> dict[str, Any]:
    """Return the JSON schema of the document."""
    found = _ADAPTER.json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": VERSION, **found}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(schema(), indent=1) + "\n")
