"""What keeps the operator's process small and its start short: everything large is imported within `lean_imports`.

Everything here only leaves out work and memory that nothing uses: a package's eager imports of its other halves,
validators of models that nobody validates, and heaps of threads. Where the platform or a package is built differently,
nothing is left out and all works the same.
"""

import contextlib
import ctypes
import gc
import importlib.util
import os
import sys
from collections.abc import Iterator

_HOLLOW = ("kubernetes", "kubernetes.aio", "langsmith.types")
"""Packages whose __init__ imports all they have (watches, streams, informers; 150 models of an API that is not asked):
half a second and 10 MiB, for a few modules that are imported by their own names anyway."""

_M_ARENA_MAX = -8
"""glibc's number of the option."""


@contextlib.contextmanager
def lean_imports() -> Iterator[None]:
    """Leave out what is not needed of whatever is imported while the context is open."""
    # Pydantic would read the metadata of every installed package to look for plug-ins that see all that is validated.
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    from pydantic import BaseModel  # noqa: PLC0415  `optiinfra --help` must load nothing

    _prepare()
    # What importing makes lives for ever: to look for garbage in it costs a tenth of the start.
    gc.disable()
    # Each model would get its validator at once, and most are of libraries that never use them here (langsmith): these
    # are built when they are first needed. Not for ever: FastAPI warns about models that are not complete.
    BaseModel.model_config["defer_build"] = True
    try:
        yield
    finally:
        del BaseModel.model_config["defer_build"]
        gc.enable()


def _prepare() -> None:
    for name in _HOLLOW:
        _leave_out_initialiser(name)
    # One heap for all threads: worker threads would each keep one of their own, mostly empty after a burst, and the
    # interpreter's lock lets only one of them allocate at a time anyway. Other C libraries have neither heap nor call.
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _leave_out_initialiser(name: str) -> None:
    if name in sys.modules:
        return
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # what it is a part of is not installed
        return
    if found is None or found.loader is None or found.submodule_search_locations is None:
        return
    package = importlib.util.module_from_spec(found)
    loader = found.loader

    def look_up(attribute: str) -> object:
        # Whoever wants more of it than its modules gets all that it has.
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, attribute)

    package.__dict__["__getattr__"] = look_up
    sys.modules[name] = package
