"""The tables of docs/reference/signals.md, as the code has them.

`python -m tests.unit.engines.signal_tables` prints them, to be put into the page where its test says that they differ.
"""

import sys

from optiinfra.domain.aggregation import RULES
from optiinfra.domain.readings import Signal
from optiinfra.engines import gpu_tables, lmcache, nim, sglang, tgi, triton, trtllm, vllm
from optiinfra.engines.alias import Table
from optiinfra.engines.setting_names import NAMES, NOT_SETTINGS, Names

ENGINES = {
    "vLLM": vllm.TABLE,
    "SGLang": sglang.TABLE,
    "TGI": tgi.TABLE,
    "trtllm-serve": trtllm.TABLE,
    "Triton": triton.TABLE,
    "NIM": nim.TABLE,
    "LMCache": lmcache.TABLE,
    "LMCache server": lmcache.SERVER_TABLE,
}


def row(*cells: str) -> str:
    """One row of a table."""
    return f"| {' | '.join(cells)} |"


def code(*texts: str) -> str:
    """Names as code."""
    return ", ".join(f"`{text}`" for text in texts)


def joins() -> list[str]:
    """How each signal of a service comes about."""
    return [
        row(
            f"`{name}`",
            code(*(str(signal) for signal in rule.signals)),
            str(rule.across),
            str(rule.over),
            "parts added up" if name == "work_rate" else str(rule.part),
        )
        for name, rule in RULES.items()
    ]


def names(table: Table) -> list[str]:
    """The names that carry each signal on one engine's page, newest first."""
    found = []
    for alias in table.aliases:
        texts = [
            f"`{name.text}`" + (f" ({name.only[0]}: {', '.join(sorted(name.only[1]))})" if name.only else "")
            for name in alias.names
        ]
        found.append(row(f"`{alias.signal}`", ", ".join(texts)))
    return found


def renames() -> list[str]:
    """vLLM's names that were not always there, or are gone."""
    return [
        row(f"`{name.text}`", name.since, name.gone, f"`{alias.signal}`")
        for alias in vllm.TABLE.aliases
        for name in alias.names
        if name.since or name.gone
    ]


def versions() -> list[str]:
    """What proves a version of vLLM."""
    return [row(f"`{family}`", version) for family, version in vllm.VERSION_SIGNS]


def settings() -> list[str]:
    """Where settings are read from."""
    fields = [field for field in Names.__dataclass_fields__ if field not in NOT_SETTINGS]
    return [
        row(field.replace("_", " "), *(code(*getattr(names_of, field)) for names_of in NAMES.values()))
        for field in fields
    ]


def gpu() -> list[str]:
    """Families of GPUs."""
    return [row(str(one.quantity), code(*(name for name, _ in one.names))) for one in gpu_tables.GPU_ROWS]


def everything() -> dict[str, list[str]]:
    """All tables, by the heading that they stand under."""
    return {
        "How a service's signals come about": joins(),
        **{f"Names: {engine}": names(table) for engine, table in ENGINES.items()},
        "Renames": renames(),
        "Versions": versions(),
        "Settings": settings(),
        "Pages about GPUs and nodes": gpu(),
    }


def untold() -> set[Signal]:
    """Signals that no table names: they are derived from several families."""
    return set(Signal) - {alias.signal for table in ENGINES.values() for alias in table.aliases}


if __name__ == "__main__":
    for heading, lines in everything().items():
        sys.stdout.write("\n".join((f"\n## {heading}\n", *lines, "")))
