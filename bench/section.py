"""The section of a document that a bench writes: what stands between its two markers, both of them included."""

from pathlib import Path


def rewrite(path: Path, section: str, *, begin: str, end: str) -> None:
    """Replace the section by one that begins and ends with the same markers; raise ValueError where they are not."""
    text = path.read_text(encoding="utf-8")
    first, last = text.index(begin), text.index(end) + len(end)
    if not section.startswith(begin) or not section.endswith(end):
        raise ValueError(f"the new section of {path.name} lacks the markers {begin} and {end}")
    path.write_text(text[:first] + section + text[last:], encoding="utf-8")
