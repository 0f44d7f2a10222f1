"""The savings ledgers over HTTP: JSON as the statuses have it, and tables as CSV for those who add things up.

Nothing is computed here but the choice of rows. A table holds one kind and one period, so that its columns can be
summed without counting anything twice; what was freed and what was added are columns of their own. Cells that people
wrote and that a spreadsheet would take for a formula are disarmed.
"""

import base64
import binascii
import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse

from optiinfra.web.authentication import authenticated
from optiinfra.web.optimize import CRO, PLURAL, RO, Kind, gate_of, listed, view_of

MOST_PAGE: Final = 1000
MOST_TABLE: Final = 10_000
PERIODS: Final = {"this-month": "thisMonth", "last-month": "lastMonth", "total": "total"}
_CLAIMED: Final = ("Action", "Adopted")
_HOURS: Final = {
    "gpu_hours": "gpuHours",
    "cpu_core_hours": "cpuCoreHours",
    "memory_gib_hours": "memoryGiBHours",
    "free_gpu_hours": "freeGpuHours",
    "free_cpu_core_hours": "freeCpuCoreHours",
    "free_memory_gib_hours": "freeMemoryGiBHours",
    "money": "money",
}
_AMOUNTS: Final = tuple(f"{name}_{part}" for name in _HOURS for part in ("freed", "added"))
_OBJECT: Final = ("kind", "namespace", "name")
TOTALS: Final = (
    *_OBJECT,
    "period",
    "since",
    "as_of",
    "cause",
    "claimed",
    "basis",
    "verified",
    *_AMOUNTS,
    "currency",
)
ENTRIES: Final = (
    *_OBJECT,
    "entry",
    "target",
    "axis",
    "cause",
    "claimed",
    "by",
    "basis",
    "method",
    "verified",
    "opened",
    "ended",
    "end",
    "before",
    "after",
    "direction",
    "amount",
    "pool",
    "gpu_model",
    *_AMOUNTS,
    "currency",
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")

router = APIRouter(prefix="/api/v1", tags=["savings"], dependencies=[Depends(authenticated)])
Document = Mapping[str, Any]


@router.get("/savings", response_model=None, responses={200: {"content": {"text/csv": {}}}})
async def savings(
    request: Request,
    *,
    namespace: Annotated[str | None, Query(max_length=63)] = None,
    name: Annotated[str | None, Query(max_length=253)] = None,
    kind: Kind | None = None,
    period: Literal["this-month", "last-month", "total"] | None = None,
    table: Literal["totals", "entries"] = "totals",
    format_: Annotated[Literal["json", "csv"] | None, Query(alias="format")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_PAGE)] = 500,
    after: Annotated[str | None, Query(alias="continue", max_length=1024)] = None,
) -> Response:
    """List the savings ledgers: as JSON page by page, or as one CSV table (`format=csv`, or `Accept: text/csv`).

    A CSV table holds one kind (ResourceOptimization unless `kind` says otherwise) and, for totals, one period
    (`this-month` unless `period` says otherwise).
    """
    as_csv = format_ == "csv" or (format_ is None and "text/csv" in request.headers.get("accept", ""))
    found = await _found(request, namespace=namespace, name=name, kind=kind or (RO if as_csv else None))
    ledgers = sorted((item for item in found if item.get("status", {}).get("savings")), key=_order)
    if as_csv:
        if len(ledgers) > MOST_TABLE:
            raise HTTPException(422, f"{len(ledgers)} objects are more than {MOST_TABLE}: ask by namespace")
        return _csv(ledgers, table=table, period=period or "this-month")
    begun = [item for item in ledgers if after is None or _order(item) > _position(after)]
    page = begun[:limit]
    answer: dict[str, Any] = {"items": [_item(item, period) for item in page]}
    if len(begun) > len(page):
        answer["continue"] = _token(page[-1])
    return JSONResponse(answer)


async def _found(request: Request, *, namespace: str | None, name: str | None, kind: Kind | None) -> list[Document]:
    if name is None:
        if kind == CRO:
            await gate_of(request).demand(request, verb="list", resource=PLURAL[CRO])
            return [item for item in view_of(request).objects(None) if item["kind"] == CRO]
        return [item for item in await listed(request, namespace) if kind is None or item["kind"] == kind]
    wanted = kind or RO
    await gate_of(request).demand(request, verb="get", resource=PLURAL[wanted], namespace=namespace or "", name=name)
    found = view_of(request).find(wanted, namespace or "", name)
    if found is None:
        raise HTTPException(404, f"there is no {wanted} {namespace or ''}/{name}")
    return [found]


def _order(item: Document) -> tuple[bool, str, str]:
    return item["kind"] != RO, item["metadata"]["namespace"], item["metadata"]["name"]


def _token(item: Document) -> str:
    other, namespace, name = _order(item)
    return base64.urlsafe_b64encode(f"{int(other)}/{namespace}/{name}".encode()).decode()


def _position(token: str) -> tuple[bool, str, str]:
    try:
        other, namespace, name = base64.urlsafe_b64decode(token.encode()).decode().split("/")
    except (binascii.Error, UnicodeError, ValueError) as error:
        raise HTTPException(422, "continue: not a token of an earlier answer; begin again without it") from error
    return other == "1", namespace, name


def _item(item: Document, period: str | None) -> dict[str, Any]:
    ledger = dict(item["status"]["savings"])
    if period is not None:
        for name, key in PERIODS.items():
            if name != period:
                ledger.pop(key, None)
    return {"kind": item["kind"], "metadata": item["metadata"], "savings": ledger}


# tables


def _csv(ledgers: Iterable[Document], *, table: str, period: str) -> Response:
    columns = TOTALS if table == "totals" else ENTRIES
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\r\n")
    writer.writeheader()
    for item in ledgers:
        rows = _totals(item, period) if table == "totals" else _entries(item)
        writer.writerows({name: disarmed(row.get(name, "")) for name in columns} for row in rows)
    return Response(
        text.getvalue(),
        media_type="text/csv; charset=utf-8; header=present",
        headers={"Content-Disposition": f'attachment; filename="optiinfra-savings-{table}.csv"'},
    )


def disarmed(cell: object) -> str:
    """Write a cell so that no spreadsheet takes it for a formula; numbers are never negative here."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        return format(cell, ".6f").rstrip("0").rstrip(".") or "0"
    text = str(cell)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _named(item: Document) -> dict[str, object]:
    metadata = item["metadata"]
    return {"kind": item["kind"], "namespace": metadata["namespace"], "name": metadata["name"]}


def _totals(item: Document, period: str) -> Iterator[dict[str, object]]:
    ledger = item["status"]["savings"]
    found = ledger.get(PERIODS[period])
    for line in found["lines"] if found else ():
        yield {
            **_named(item),
            "period": period,
            "since": found["since"],
            "as_of": ledger.get("asOf", ""),
            "cause": line["cause"],
            "claimed": line["cause"] in _CLAIMED,
            "basis": line["basis"],
            "verified": line["verified"],
            **_amounts(line["freed"], line["added"]),
            "currency": ledger.get("moneyCurrency", ""),
        }


def _entries(item: Document) -> Iterator[dict[str, object]]:
    ledger = item["status"]["savings"]
    currency = ledger.get("moneyCurrency", "")
    for entry in ledger.get("entries", ()):
        accrued = entry["accrued"]
        yield {
            **_named(item),
            "entry": entry["id"],
            **{name: entry.get(name, "") for name in ("target", "axis", "cause", "by", "basis", "method", "verified")},
            **{name: entry.get(name, "") for name in ("opened", "ended", "end", "pool")},
            "claimed": entry["cause"] in _CLAIMED,
            "before": float(entry["before"]),
            "after": float(entry["after"]),
            "direction": "added" if entry["amount"] < 0 else "freed",
            "amount": abs(float(entry["amount"])),
            "gpu_model": entry.get("gpuModel", ""),
            **_amounts(
                {key: max(0.0, value) for key, value in accrued.items()},
                {key: max(0.0, -value) for key, value in accrued.items()},
            ),
            "currency": currency,
        }
    for entry in ledger.get("nodeEntries", ()):
        yield {
            **_named(item),
            "entry": entry["id"],
            "target": entry.get("name", ""),
            "axis": "Nodes",
            **{name: entry.get(name, "") for name in ("cause", "by", "opened", "ended")},
            "claimed": entry["cause"] in _CLAIMED,
            "basis": "Measured",
            "before": float(entry["before"]),
            "after": float(entry["after"]),
            "direction": "added" if entry["nodes"] < 0 else "freed",
            "amount": abs(float(entry["nodes"])),
            "pool": entry["shape"].get("pool", ""),
            "gpu_model": entry["shape"].get("gpuModel", ""),
            "money_freed": max(0.0, float(entry["money"])),
            "money_added": max(0.0, -float(entry["money"])),
            "currency": currency,
        }


def _amounts(freed: Mapping[str, float], added: Mapping[str, float]) -> dict[str, object]:
    return {
        f"{name}_{part}": float(amounts[key])
        for name, key in _HOURS.items()
        for part, amounts in (("freed", freed), ("added", added))
    }
