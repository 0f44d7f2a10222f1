"""Which proposal is worth what: booked in the order of worth, ranked by what each counts for, and the sum of all.

The order matters, because what one frees another does not free again: the dearest goes first, and this project's scaler
before a plain one of the same service. A patch gets a file name that no other has.
"""

from collections.abc import Sequence

from optiinfra.domain.evidence import RecommendationType
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.report.drafts import Draft
from optiinfra.domain.report.figures import known_cost
from optiinfra.domain.report.money import Booked, Ledger
from optiinfra.domain.report.patches import comment, file_name
from optiinfra.domain.report.report import Opportunity, Patch, Saved, Total
from optiinfra.domain.units import HOURS_PER_MONTH


def booked(
    drafts: Sequence[Draft], ledger: Ledger, *, hours: float
) -> tuple[tuple[Opportunity, ...], tuple[Patch, ...], Total]:
    """Book in the order of worth, and rank by what each counts for."""

    def worth(draft: Draft) -> tuple[float, float, float, str, str]:
        alone = ledger.worth(draft.claims)
        money = 0.0 if isinstance(alone.money, Unknown) else alone.money
        # This project's scaler goes before a plain one of the same worth: it is what the report is about.
        own = 0.0 if draft.type is RecommendationType.HPA_TARGET else 1.0
        return (-own, -money, -alone.gpu_hours, draft.subject, draft.setting)

    rows: list[tuple[Opportunity, Patch | None]] = []
    files: set[str] = set()
    money = gpu_hours = unpaid = unpriced = 0.0
    for draft in sorted(drafts, key=worth):
        taken = ledger.book(draft.claims, apart=draft.apart)
        name = f"{draft.type}/{draft.subject}/{draft.setting}"
        file = _free(file_name(draft), files) if draft.patch else ""
        rows.append((_opportunity(draft, taken, name=name, file=file, hours=hours),
                     Patch(file, comment(draft) + draft.patch, name) if file else None))  # fmt: skip
        money += 0.0 if isinstance(taken.money, Unknown) else taken.money
        gpu_hours += taken.counted
        unpaid += taken.unpaid
        unpriced += taken.unpriced
    rows.sort(key=lambda row: _rank(row[0]))
    cost = known_cost(ledger)
    saved: Value = cost if isinstance(cost, Unknown) else min(money, cost)
    total = Total(
        cost=cost,
        saved=saved,
        per_month=saved if isinstance(saved, Unknown) else saved / max(hours, 1e-9) * HOURS_PER_MONTH,
        share=saved if isinstance(saved, Unknown) or isinstance(cost, Unknown) else saved / cost if cost > 0.0 else 0.0,
        gpu_hours=gpu_hours,
        unpaid_gpu_hours=unpaid,
        unpriced_gpu_hours=unpriced,
    )
    return tuple(row for row, _ in rows), tuple(patch for _, patch in rows if patch is not None), total


def _rank(one: Opportunity) -> tuple[float, float, float, float, str]:
    money = 0.0 if isinstance(one.saved.money, Unknown) else one.saved.money
    return (-money, -one.saved.counted_gpu_hours, -one.saved.gpu_hours, -one.confidence, one.id)


def _free(name: str, taken: set[str]) -> str:
    """Return a file name that no other patch has."""
    stem, number = name.removesuffix(".yaml"), 2
    while name in taken:
        name = f"{stem}-{number}.yaml"
        number += 1
    taken.add(name)
    return name


def _opportunity(draft: Draft, booked: Booked, *, name: str, file: str, hours: float) -> Opportunity:
    money = booked.money
    return Opportunity(
        id=name,
        type=draft.type,
        reason=draft.reason,
        subject=draft.subject,
        title=draft.title,
        message=draft.message,
        setting=draft.setting,
        current=draft.current,
        proposed=draft.proposed,
        confidence=draft.confidence,
        saved=Saved(
            gpu_hours=booked.gpu_hours,
            counted_gpu_hours=booked.counted,
            unpaid_gpu_hours=booked.unpaid,
            money=money,
            per_month=money if isinstance(money, Unknown) else money / max(hours, 1e-9) * HOURS_PER_MONTH,
            cpu_cores=draft.cpu_cores,
            memory_bytes=draft.memory_bytes,
        ),
        evidence=draft.evidence,
        sources=draft.sources,
        worse=draft.worse,
        risk=draft.risk,
        verification=draft.verification,
        undo=draft.undo,
        patch=file,
    )
