"""Puts the output of a demonstration into README.md: `python -m hack.readme FILE`.

Output is quoted as it was printed, between the two markers, so that nobody writes it by hand. Only the part below the
last heading of the final report is taken (`--from TEXT` names another line to begin at); escape sequences of a terminal
and names of this machine's folders are refused, not cleaned: make the file with the output of a pipe.
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


def excerpt(output: str, start: str) -> str:
    """Return what is quoted: from the last line that holds `start` to the end.

    Raises:
        ValueError: with the remedy, when the output cannot be quoted.
    """
    lines = [line.rstrip() for line in output.splitlines()]
    first = max((number for number, line in enumerate(lines) if start in line), default=-1)
    if first < 0:
        raise ValueError(f"no line holds {start!r}: name one with --from")
    quoted = "\n".join(lines[first:]).strip()
    found = _FOREIGN.search(quoted)
    if found is not None:
        raise ValueError(f"the output holds {found[0]!r}: make it with `make demo > FILE`, in a folder without a name")
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
    arguments = parser.parse_args()
    try:
        README.write_text(inserted(README.read_text(), excerpt(arguments.file.read_text(), arguments.start)))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
