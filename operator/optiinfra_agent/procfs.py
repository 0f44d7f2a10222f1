"""Reading small text files of the kernel, with every way to fail told apart.

The folder is a setting because inside a container the host's procfs may be mounted elsewhere. psutil's
`PROCFS_PATH` moves only some of its functions (measured: not the core count, not the load), so what it leaves
behind is read here. At most `LIMIT` bytes are read: a procfs file is small, and whatever is larger is no procfs file.
"""

from pathlib import Path

from optiinfra_agent.errors import (
    SourceDeniedError,
    SourceFailedError,
    SourceUnavailableError,
    SourceUnsupportedError,
)

LIMIT = 1 << 20
_NOT_SUPPORTED = 95  # EOPNOTSUPP: the kernel has the file and has the feature switched off


def read_text(path: Path) -> str:
    """Return the text of one kernel file, or raise the SourceError that tells what stood in the way."""
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except FileNotFoundError as error:
        raise SourceUnavailableError(f"{path} does not exist") from error
    except PermissionError as error:
        raise SourceDeniedError(f"{path} may not be read by this process") from error
    except OSError as error:
        if error.errno == _NOT_SUPPORTED:
            raise SourceUnsupportedError(f"{path} is switched off in this kernel") from error
        raise SourceFailedError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > LIMIT:
        raise SourceFailedError(f"{path} is larger than {LIMIT} bytes: this is no procfs")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise SourceFailedError(f"{path} is not plain text") from error
