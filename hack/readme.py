"""Puts the output of a demonstration into README.md: `python -m hack.readme FILE`.

Output is quoted as it was printed, between the two markers, so that nobody writes it by hand: from the last line that
holds a text (`--from`) to the end, or to the line that holds another (`--until`). Escape sequences of a terminal and
names of this machine's folders are refused, not cleaned.
"""

import argparse
import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN = "<!-- demo output: python -m hack.readme FILE -->"
END = "<!-- end of demo output -->"
MOST_LINES = 120
_FOREIGN = re.compile(r"\x1b|(?<![\w.])/(?:root|home|tmp|work)/")


def excerpt(output: str, *, start: str, until: str) -> str:
    """Return what is quoted: from the last line that holds `start` up to the next one that holds `until`.

    Raises:
        ValueError: with the remedy, when the output cannot be quoted.
    """
    lines = [line.rstrip() for line in output.splitlines()]
    first = max((number for number, line in enumerate(lines) if start in line), default=-1)
    if first < 0:
        raise ValueError(f"no line holds {start!r}: name one with --from")
    after = range(first + 1, len(lines))
    last = next((number for number in after if until and until in lines[number]), len(lines))
    quoted = "\n".join(lines[first:last]).strip()
    found = _FOREIGN.search(quoted)
    if found is not None:
        raise ValueError(f"the output holds {found[0]!r}: quote a piped run that names no folder of this machine")
    if len(quoted.splitlines()) > MOST_LINES:
        raise ValueError(f"more than {MOST_LINES} lines: begin later with --from")
    return quoted


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
    parser.add_argument("--from", dest="start", default="kubectl get ro,cro -A", help="line to begin at (%(default)s)")
    parser.add_argument("--until", default="", help="line to end before (default: the end)")
    arguments = parser.parse_args()
    try:
        quoted = excerpt(arguments.file.read_text(), start=arguments.start, until=arguments.until)
        README.write_text(inserted(README.read_text(), quoted))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
