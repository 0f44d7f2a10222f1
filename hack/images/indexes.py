"""Where this machine gets packages of Python from, so that the build of an image asks there too.

A container of a build sees neither the environment nor the files of whoever builds, and a machine behind a mirror has
only that. Read as pip reads them, the most particular first: PIP_INDEX_URL (uv's UV_DEFAULT_INDEX and UV_INDEX_URL
count as well), the file that PIP_CONFIG_FILE names, the user's, the machine's.
"""

import configparser
import os
import re
from collections.abc import Mapping
from pathlib import Path

from hack.cluster.errors import ClusterError

PYPI = "https://pypi.org/simple"
_VARIABLES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")
_NAMED = re.compile(r"^[A-Za-z0-9_-]+=(?=https?:)")
"""uv may give an index a name."""
_FILES = ("~/.config/pip/pip.conf", "~/.pip/pip.conf", "/etc/pip.conf")


def url(environment: Mapping[str, str] | None = None) -> str:
    """Return the address of the index; raise ClusterError for a file that cannot be read."""
    given = os.environ if environment is None else environment
    for name in _VARIABLES:
        if given.get(name):
            return _NAMED.sub("", given[name])
    chosen = given.get("PIP_CONFIG_FILE")
    for file in (chosen, *_FILES) if chosen else _FILES:
        if found := _from_file(Path(file).expanduser()):
            return found
    return PYPI


def shown(address: str) -> str:
    """Return an address without a password that it may have."""
    return re.sub(r"//[^@/]*@", "//", address)


def _from_file(path: Path) -> str | None:
    settings = configparser.RawConfigParser()
    try:
        settings.read(path, encoding="utf-8")
        return settings.get("global", "index-url", fallback=None)
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ClusterError(f"{path}: {error}") from error
