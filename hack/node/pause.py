"""The image of the sandbox of every pod: one program of a few instructions that waits, written here byte by byte.

An image from a registry is not to be had everywhere, and a compiler neither; kubelet and containerd ask no more of it
than to be there. It stays below 1 MiB of memory, by which the agent tells a sandbox from a container, as the usual one
does.
"""

import io
import struct
import tarfile
import tempfile
from pathlib import Path

from hack.images import archive as images

_BASE = 0x40_0000
_HEADERS = 64 + 56
# mov eax, 34 (SYS_pause); syscall; jmp -9: a signal that it does not die of is no reason to go on.
_CODE = bytes.fromhex("b8220000000f05ebf7")


def program() -> bytes:
    """Return a static ELF program for x86-64 (elf(5): one header, one program header, the code)."""
    size = _HEADERS + len(_CODE)
    identity = b"\x7fELF" + bytes([2, 1, 1, 0]) + bytes(8)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return identity + header + segment + _CODE


def archive(path: Path, *, name: str) -> None:
    """Write the image as an archive; always the same bytes."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        layer = Path(folder) / "layer.tar"
        entry = tarfile.TarInfo("pause")
        entry.size, entry.mode = len(program()), 0o755
        with tarfile.open(layer, "w") as tar:
            tar.addfile(entry, io.BytesIO(program()))
        images.write(path, name=name, layers=[layer], settings={"Entrypoint": ["/pause"], "User": "65535:65535"})
