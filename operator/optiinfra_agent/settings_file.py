"""Settings from a file: one `NAME=value` a line, the names of the environment; for hosts without a pod specification.

The same form that systemd reads (`EnvironmentFile`), so one file serves both. The environment wins over the file. A
line that is none, a name that means nothing, and a name given twice are errors and name the line: unlike in an
environment, where strangers' variables are normal, whatever stands here was meant for the agent.
"""

from collections.abc import Collection
from pathlib import Path

from optiinfra_agent.errors import SettingsError

LIMIT = 64 * 1024


def read_settings_file(path: Path, *, known: Collection[str]) -> dict[str, str]:
    """Return variable -> value; raise SettingsError at the first line that is not usable."""
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > LIMIT:
        raise SettingsError(f"{path} is larger than {LIMIT} bytes: it holds one NAME=value a line")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 text: it holds one NAME=value a line") from error
    return parse_settings(text, path=path, known=known)


def parse_settings(text: str, *, path: Path, known: Collection[str]) -> dict[str, str]:
    """Return variable -> value of a file's text. Quotes around a whole value are taken off."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, separator, value = (part.strip() for part in stripped.partition("="))
        where = f"{path}, line {number}"
        if not separator:
            raise SettingsError(f"{where}: write NAME=value, not {stripped[:40]!r}")
        if name not in known:
            raise SettingsError(f"{where}: {name[:64]!r} means nothing here; --help lists what does")
        if name in found:
            raise SettingsError(f"{where}: {name} is given twice; remove one")
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        found[name] = value
    return found
