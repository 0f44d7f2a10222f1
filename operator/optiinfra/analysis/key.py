"""The key of the language model: read from its mounted file at each call, never kept, never logged.

The kubelet swaps the file when the Secret changes; reading it each time is all that rotation needs. No error holds
anything of its content.
"""

import hashlib
from pathlib import Path
from typing import Final

from optiinfra.analysis.errors import NotConfigured

MAX_KEY_BYTES: Final = 4_096


class KeyFile:
    """The file that holds the key, and nothing else."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> str:
        """Return the key.

        Raises:
            NotConfigured: the file is missing, unreadable, empty, or holds something that cannot be a key.
        """
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_KEY_BYTES + 1)
        except OSError as error:
            raise NotConfigured(f"the key file cannot be read ({type(error).__name__}); mount the Secret") from None
        key = content.strip().decode("ascii", errors="replace")
        if not key:
            raise NotConfigured("the key file is empty; put the key into the mounted Secret")
        if len(content) > MAX_KEY_BYTES or not key.isprintable() or " " in key or not key.isascii():
            raise NotConfigured("the key file holds something that cannot be a key; put only the key into it")
        return key

    def fingerprint(self) -> str:
        """Return a digest of the key, to notice that it changed.

        Raises:
            NotConfigured: as for `read`.
        """
        return hashlib.sha256(self.read().encode()).hexdigest()
