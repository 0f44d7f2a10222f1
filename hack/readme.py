"""Puts the output of a demonstration into README.md: `python -m hack.readme FILE`.

Chosen sections of the output are quoted as they were printed, between the two markers, so that nobody writes them by
hand. A section begins at a ruled line with its title and goes to the next; only the rules are shortened. Escape
sequences of a terminal and names of this machine's folders are refused, not cleaned.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN = "<!-- demo output: python -m hack.readme FILE -->"
END = "<!-- end of demo output -->"
SECTIONS = ("kubectl get ro,cro", "could give back", "under plain scalers", "what had to happen")
MOST_LINES = 120
_RULE = re.compile(r"─{3,} (.+?) ─{3,}")
_FOREIGN = re.compile(r"\x1b|(?<![\w.])/(?:root|home|tmp|work)/")


def excerpt(output: str, *, titles: Sequence[str]) -> str:
    """Return the sections whose titles hold these texts, in the order of the output.

    Raises:
        ValueError: with the remedy, when the output cannot be quoted.
    """
    sections = _sections(output)
    for title in titles:
        if not any(title in name for name, _ in sections):
            raise ValueError(f"no section is called {title!r}: name others with --section")
    chosen = [(name, lines) for name, lines in sections if any(title in name for title in titles)]
    quoted = "\n\n".join("\n".join([f"── {name} ──", *lines]).strip() for name, lines in chosen)
    found = _FOREIGN.search(quoted)
    if found is not None:
        raise ValueError(f"the output holds {found[0]!r}: quote a piped run that names no folder of this machine")
    if len(quoted.splitlines()) > MOST_LINES:
        raise ValueError(f"more than {MOST_LINES} lines: choose fewer sections with --section")
    return quoted


def _sections(output: str) -> list[tuple[str, list[str]]]:
    sections: list[tuple[str, list[str]]] = []
    for line in output.splitlines():
        rule = _RULE.fullmatch(line.strip())
        if rule:
            sections.append((rule[1], []))
        elif sections:
            sections[-1][1].append(line.rstrip())
    return sections


def inserted(page: str, quoted: str) -> str:
    """Return the page with the quotation between its markers."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{README.name} lacks the markers {BEGIN} and {END}")
    return f"{head}{BEGIN}\nThe end of a real run:\n\n```\n{quoted}\n```\n{END}{tail}"


def main() -> int:
    """Write README.md."""
    parser = argparse.ArgumentParser(prog="python -m hack.readme", description=__doc__)
    parser.add_argument("file", type=Path, help="output of `make demo`")
    parser.add_argument("--section", action="append", help="title to quote, several times (default: four of them)")
    arguments = parser.parse_args()
    try:
        quoted = excerpt(arguments.file.read_text(), titles=arguments.section or SECTIONS)
        README.write_text(inserted(README.read_text(), quoted))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
