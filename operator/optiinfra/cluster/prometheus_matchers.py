"""Label matchers that whoever asks adds to every selector of a question, and a question with its places filled.

Values are quoted as PromQL wants them, so that nothing that comes from outside can end a string early. A list of values
becomes one regular expression of escaped alternatives, which every server answers from its index.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from optiinfra.cluster.errors import Invalid
from optiinfra.domain.units import Seconds

_WRITTEN: Final = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*(?:"((?:[^"\\]|\\.)*)"|([^"\s]*))\s*')
_UNESCAPED: Final = re.compile(r"\\(.)")
_META: Final = re.compile(r"([.+*?()|\[\]{}^$\\])")
_LONGEST: Final = 512
_MOST: Final = 20
_OPERATORS: Final = frozenset({"=", "!=", "=~", "!~"})
_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on a label."""

    name: str
    operator: str
    """One of =, !=, =~, !~."""
    value: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.operator not in _OPERATORS:
            raise Invalid(f'{self.name[:64]}{self.operator[:4]}: write a label matcher like cluster="prod"')

    def __str__(self) -> str:
        escaped = self.value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'{self.name}{self.operator}"{escaped}"'


def parse_matcher(text: str) -> Matcher:
    """Read `cluster="prod"`, `cluster=prod`, `cluster=~"a|b"`, `cluster!="test"`. Raises `Invalid`."""
    found = _WRITTEN.fullmatch(text)
    if not found or len(text) > _LONGEST:
        raise Invalid(f'{text[:64]!r} is no label matcher: write one like cluster="prod"')
    name, operator, quoted, plain = found.groups()
    return Matcher(name, operator, plain if quoted is None else _UNESCAPED.sub(r"\1", quoted))


def one_of(name: str, values: Sequence[str], *, others: bool = False) -> Matcher:
    """Match a label that has one of some values ("": it is absent), or, with `others`, none of them."""
    if len(values) == 1:
        return Matcher(name, "!=" if others else "=", values[0])
    text = "|".join(_META.sub(r"\\\1", value) for value in values)
    return Matcher(name, "!~" if others else "=~", text)


def filled(promql: str, *, matchers: Iterable[Matcher], window: Seconds) -> str:
    """Return a question's query with `$matchers` and `$window` in place. Raises `Invalid` for too many matchers."""
    listed = [str(one) for one in matchers]
    if len(listed) > _MOST:
        raise Invalid(f"{len(listed)} label matchers: use at most {_MOST}")
    inner = ",".join(listed)
    if not inner:
        promql = promql.replace(",$matchers", "")
    return promql.replace("$matchers", inner).replace("$window", f"{window:.0f}s")
