"""The one folder that this tool writes into, and its removal.

A folder is this tool's when it carries the tool's mark, which only an empty or a new folder ever gets. Nothing without
the mark is written into or removed, nor is a folder that others live in (a home, the source tree, their parents).
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from hack.vllm_cpu.errors import CacheError

ROOT = Path(__file__).resolve().parents[2]
MARK = "optiinfra-vllm-cpu.txt"
MARK_TEXT = "Made by `python -m hack.vllm_cpu`; its command `clean` removes the whole folder.\n"


def default_folder() -> Path:
    """Return where the engine lies unless told otherwise."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "optiinfra" / "vllm-cpu"


@dataclass(frozen=True)
class Cache:
    """The folder and what lies in it. The path must be absolute."""

    folder: Path

    @property
    def venv(self) -> Path:
        """The engine's own virtual environment."""
        return self.folder / "venv"

    @property
    def python(self) -> Path:
        """The interpreter of that environment."""
        return self.venv / "bin" / "python"

    @property
    def engine(self) -> Path:
        """The engine's command."""
        return self.venv / "bin" / "vllm"

    @property
    def model(self) -> Path:
        """Configuration and tokenizer; there are no weights."""
        return self.folder / "model"

    @property
    def home(self) -> Path:
        """What the engine and its libraries take for the user's home and caches."""
        return self.folder / "home"

    @property
    def logs(self) -> Path:
        """Logs of the processes, and which of them run."""
        return self.folder / "programs"

    @property
    def installed(self) -> Path:
        """Exists once the installation has come to its end."""
        return self.folder / "installed.json"

    def claim(self) -> None:
        """Make the folder this tool's, or check that it is."""
        if self._marked():
            return
        if self.folder.exists() and any(self.folder.iterdir()):
            raise CacheError(f"{self.folder} is not empty and not of this tool: choose another --dir")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / MARK).write_text(MARK_TEXT)

    def demand(self) -> None:
        """Raise CacheError unless the engine is installed here."""
        if not (self._marked() and self.installed.exists() and self.engine.exists()):
            raise CacheError(f"no engine in {self.folder}: run `python -m hack.vllm_cpu install` first")

    def remove(self) -> bool:
        """Remove the folder with everything in it; False when there is none."""
        if self.folder.is_symlink():
            raise CacheError(f"{self.folder} is a link: remove what it points to with --dir, and the link by hand")
        if not self.folder.exists():
            return False
        for other in (Path.home(), ROOT, Path.cwd()):
            if other.resolve().is_relative_to(self.folder.resolve()):
                raise CacheError(f"{self.folder} holds {other}: it is not removed")
        if not self._marked():
            raise CacheError(f"{self.folder} has no {MARK} in it, so it is not of this tool: it is not removed")
        try:
            # The mark goes last, so that a removal that was broken off can be taken up again.
            for entry in self.folder.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                elif entry.name != MARK:
                    entry.unlink()
            (self.folder / MARK).unlink()
            self.folder.rmdir()
        except OSError as error:
            raise CacheError(f"{self.folder} is not wholly removed ({error}): run `clean` again") from error
        return True

    def _marked(self) -> bool:
        return (self.folder / MARK).is_file()
