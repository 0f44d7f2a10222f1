"""A base for the images from Debian's packages alone: one to build with, and a smaller one that the result stands on.

mmdebstrap makes both, signatures checked by apt. The second is unpacked and not installed: Python, the C++ runtime,
certificates and what they need, without a shell, a package manager or anything else that could be run. It says what it
is made of where scanners look (`inventory`).
"""

import fcntl
import filecmp
import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hack.binaries.find import cache_folder
from hack.cluster.errors import ClusterError
from hack.images import archive, inventory
from hack.node import overlaid

SUITE = "bookworm"
BUILDER = "localhost/optiinfra/debian-python:builder"
RUNTIME = "localhost/optiinfra/debian-python:runtime"
SECONDS = 900.0
_BUILD_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates,findutils"
_RUN_PACKAGES = "python3.11,libstdc++6,ca-certificates,tzdata"
_NO_PAPER = tuple(
    f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("doc", "man", "locale", "info", "lintian", "bug")
)
_SEARCH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
_UNUSED = (
    # Programs and data of packages that only installing needs, and Python's own tests and editor.
    "usr/bin/perl* usr/lib/*/perl* usr/share/perl* usr/sbin/* usr/share/debconf usr/bin/debconf* usr/bin/openssl "
    "usr/bin/c_rehash usr/bin/dpkg* usr/lib/python3.11/ensurepip usr/lib/python3.11/pydoc_data "
    "usr/lib/python3.11/lib2to3 usr/lib/python3.11/idlelib usr/lib/python3.11/turtledemo usr/share/doc usr/share/man "
    "usr/share/locale usr/share/lintian usr/share/bug usr/share/info usr/share/pixmaps usr/share/applications "
    "usr/share/zoneinfo/right usr/share/zoneinfo/posix usr/share/gcc* usr/share/gdb usr/lib/*/gconv "
    "usr/share/ca-certificates usr/share/menu var/log/* etc/perl etc/kernel etc/dpkg etc/cron.daily etc/logrotate.d "
    "usr/libexec/dpkg usr/share/dpkg usr/bin/update-alternatives etc/debconf.conf etc/apt/apt.conf.d/70debconf "
    "usr/lib/mime usr/share/bash-completion usr/share/polkit-1 "
    "usr/lib/*/audit usr/lib/*/libpython3.11.so* usr/bin/pdb3* usr/bin/pydoc3* usr/bin/pygettext3* usr/bin/py3versions"
)
_RELEASE = r'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n'
_FINISH = (
    'cd "$1"',
    "mkdir -p etc/ssl/certs tmp",
    "chmod 1777 tmp",
    "cat usr/share/ca-certificates/mozilla/*.crt > etc/ssl/certs/ca-certificates.crt",
    "printf 'root:x:0:0:root:/:/nonexistent\\nnonroot:x:65532:65532::/tmp:/nonexistent\\n' > etc/passwd",
    "printf 'root:x:0:\\nnonroot:x:65532:\\n' > etc/group",
    f"rm -rf {_UNUSED}",
    f"printf '{_RELEASE}' > etc/os-release",
    "ln -sf python3.11 usr/bin/python3",
    "ln -sf python3.11 usr/bin/python",
    # Packages do this when they are installed; without it each start would compile what it imports.
    "chroot . /usr/bin/python3.11 -m compileall -q -j 0 --invalidation-mode unchecked-hash /usr/lib/python3.11",
    "ldconfig -r .",
    "rm -rf var/cache/ldconfig bin sbin/* lib/systemd lib/udev",
)

Say = Callable[[str], None]


def bases(*, say: Say) -> dict[str, Path]:
    """Return archives of both, made when they are not in the cache: by the name of the image."""
    folder = cache_folder(os.environ).parent / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        # Whoever comes second finds them made; the lock goes with its holder, however that ends.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return {
            name: _made(folder / f"{_digest(options)}.tar", name, options, say=say)
            for name, options in ((BUILDER, _builder_options()), (RUNTIME, _runtime_options()))
        }


def differences(*, say: Say) -> list[str]:
    """Make both once more and return the names of those that are not the same, byte for byte."""
    found = []
    for name, path in bases(say=say).items():
        again = path.with_suffix(".again")
        again.unlink(missing_ok=True)
        options = _builder_options() if name == BUILDER else _runtime_options()
        try:
            if not filecmp.cmp(path, _made(again, name, options, say=say), shallow=False):
                found.append(name)
        finally:
            again.unlink(missing_ok=True)
    return found


def _digest(options: list[str]) -> str:
    """Name a base by all that it is made from, wherever this checkout and its Python lie."""
    script = Path(inventory.__file__)
    words = "\n".join((SUITE, *options)).replace(sys.executable, "python").replace(str(script), script.name)
    return hashlib.sha256(words.encode() + script.read_bytes()).hexdigest()[:12]


def _builder_options() -> list[str]:
    link = 'ln -sf python3 "$1/usr/bin/python"'
    return ["--variant=essential", f"--include={_BUILD_PACKAGES}", *_NO_PAPER, f"--customize-hook={link}"]


def _runtime_options() -> list[str]:
    finish = "; ".join(("set -e", *_FINISH))
    listing = f'{shlex.join([sys.executable, inventory.__file__])} "$1"'
    hooks = [f"--extract-hook={each}" for each in (finish, listing)]
    return ["--variant=extract", f"--include={_RUN_PACKAGES}", *hooks]


def _made(target: Path, name: str, options: list[str], *, say: Say) -> Path:
    if target.exists():
        return target
    say(f"  making {name} from Debian's packages")
    plain, fresh = target.with_suffix(".rootfs"), target.with_suffix(".new")
    command = ["mmdebstrap", "--mode=root", "--format=tar", '--aptopt=Apt::Install-Recommends "false"', *options]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "315532800", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        overlaid.command([*command, SUITE, str(plain)], needs="mmdebstrap", say=say),
        env=environment,
        cwd=overlaid.ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        raise ClusterError(f"mmdebstrap failed: {' | '.join(done.stderr.strip().splitlines()[-5:])}")
    settings = {"Env": [_SEARCH, "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"], "Cmd": ["python3"]}
    archive.write(fresh, name=name, layers=[plain], settings=settings)
    plain.unlink()
    fresh.rename(target)
    return target
