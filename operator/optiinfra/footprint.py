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

_HOLLOW = ("kubernetes", "kubernetes.aio", "langsmith.types", "langgraph_sdk", "charset_normalizer", "chardet")
"""Packages whose __init__ imports all they have (watches, streams, informers; 150 models and a client with websockets,
of APIs that are not asked; tables to guess an encoding by): 0.7 s and 18 MiB, for a few modules that are imported by
their own names anyway, or for the number of a version."""

_M_ARENA_MAX = -8
"""glibc's number of the option."""


descriptions = True
"""Whether models of the API that are defined now read their fields' descriptions out of their own source files."""


@contextlib.contextmanager
def lean_imports(*, described: bool = True) -> Iterator[None]:
    """Leave out what is not needed of whatever is imported while the context is open.

    Models without descriptions make no CRDs: `optiinfra.api.crd` refuses to.
    """
    global descriptions  # noqa: PLW0603  what a class is made with is read when its module is imported
    # Pydantic would read the metadata of every installed package to look for plug-ins that see all that is validated.
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    from pydantic import BaseModel  # noqa: PLC0415  `optiinfra --help` must load nothing

    _prepare()
    # What importing makes lives for ever: to look for garbage in it costs a tenth of the start.
    gc.disable()
    # Each model would get its validator at once, and most are of libraries that never use them here (langsmith): these
    # are built when they are first needed. Not for ever: FastAPI warns about models that are not complete.
    BaseModel.model_config["defer_build"] = True
    descriptions = described
    try:
        yield
    finally:
        descriptions = True
        del BaseModel.model_config["defer_build"]
        gc.freeze()  # before that, or the first collection would walk through all of it
        gc.enable()


def _prepare() -> None:
    # Matrices here are small; a thread for each core of a large node would cost a stack and a buffer each.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
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
        # Whoever wants more of it than its modules and its version gets all that it has.
        if attribute == "__version__" and "." not in name:
            return _version(name)
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, attribute)

    package.__dict__["__getattr__"] = look_up
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)  # as importing it would have done


def _version(name: str) -> str:
    from importlib import metadata  # noqa: PLC0415  `optiinfra --help` must load nothing

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError as error:
        raise AttributeError(str(error)) from error
