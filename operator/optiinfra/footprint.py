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
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_HOLLOW = ("kubernetes", "kubernetes.aio", "langsmith.types", "langgraph_sdk", "charset_normalizer", "chardet")
"""Packages whose __init__ imports all they have (watches, streams, informers; 150 models and a client with websockets,
of APIs that are not asked; tables to guess an encoding by): 0.7 s and 18 MiB, for a few modules that are imported by
their own names anyway, or for the number of a version."""

_PUT_OFF = {
    "langsmith._httpx": ("AsyncBaseTransport", "BaseTransport", "Proxy", "Response", "Timeout", "URL", "httpx"),
    "langsmith.client": ("Client", "ID_TYPE", "RUN_TYPE_T", "ReplicaAuth", "_dumps_json", "_ensure_uuid"),
}
"""Modules that others import for these names and call only when they trace runs, which nobody here does: packages for
HTTP, for multipart forms and for compression, 4 MiB."""

_M_ARENA_MAX, _M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -8, -3, -1
"""glibc's numbers of the options."""
_LARGE = 128 * 1024
"""Bytes; glibc's own first value of both thresholds, which it would raise with each large block that is given back."""

TLS_BUFFER = 64 * 1024
"""Bytes that each TLS connection reads into: four of the largest records. asyncio's own 256 KiB were a tenth of the
memory of an operator with thirty watches and calls."""


descriptions = True
"""Whether models of the API that are defined now read their fields' descriptions out of their own source files."""


@contextlib.contextmanager
def lean_imports(*, described: bool = True, lasting: bool = True) -> Iterator[None]:
    """Leave out what is not needed of whatever is imported while the context is open.

    Models without descriptions make no CRDs: `optiinfra.api.crd` refuses to. With `lasting` off, what exists at the end
    is still looked through for garbage: for imports in the midst of work.
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
        if lasting:
            gc.freeze()  # before that, or the first collection would walk through all of it
        gc.enable()


def _prepare() -> None:
    # Matrices here are small; a thread for each core of a large node would cost a stack and a buffer each.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in _HOLLOW:
        _leave_out_initialiser(name)
    for name, names in _PUT_OFF.items():
        _put_off(name, names)
    # Other C libraries have neither heaps nor the call.
    with contextlib.suppress(AttributeError, OSError):
        allocator = ctypes.CDLL(None)
        # One heap for all threads: worker threads would each keep one of their own, mostly empty after a burst, and the
        # interpreter's lock lets only one of them allocate at a time anyway.
        allocator.mallopt(_M_ARENA_MAX, 1)
        # Large pages and lists go back to the system when they are done with, as on the first day.
        allocator.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        allocator.mallopt(_M_TRIM_THRESHOLD, _LARGE)


def trim() -> bool:
    """Give free memory between what is used back to the system; False where nothing was free or the call is not there.

    It takes a millisecond: bursts (the start, a large round) leave pages that nothing needs until the next one.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError):  # another C library than glibc
        return False


def small_tls_buffers() -> None:
    """Let TLS connections that are opened from now on read into smaller buffers."""
    from asyncio import sslproto  # noqa: PLC0415  `optiinfra --help` must load nothing

    if hasattr(sslproto.SSLProtocol, "max_size"):
        sslproto.SSLProtocol.max_size = TLS_BUFFER


def _leave_out_initialiser(name: str) -> None:
    found = _not_imported(name)
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
    _enter(name, package)


def _put_off(name: str, names: tuple[str, ...]) -> None:
    found = _not_imported(name)
    if found is None or found.loader is None:
        return
    module = importlib.util.module_from_spec(found)
    loader = found.loader

    def load(attribute: str) -> Any:
        if module.__dict__.pop("__getattr__", None) is not None:
            loader.exec_module(module)
        return getattr(module, attribute)

    def look_up(attribute: str) -> Any:
        if attribute in names:
            return _Later(lambda: load(attribute))
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return load(attribute)

    module.__dict__["__getattr__"] = look_up
    _enter(name, module)


class _Later:
    """A name of a module that is put off: who calls it, reads from it, checks with it or inherits gets the real one."""

    def __init__(self, real: Callable[[], Any]) -> None:
        self._real = real

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._real()(*arguments, **named)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # typing asks each type for some that it need not have
            raise AttributeError(attribute)
        return getattr(self._real(), attribute)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._real())

    def __subclasscheck__(self, subclass: type) -> bool:
        return issubclass(subclass, self._real())

    def __get_pydantic_core_schema__(self, source: object, handler: Callable[[Any], Any]) -> Any:
        return handler(self._real())  # as a field's type

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[Any, ...]:
        return (self._real(),)


def _not_imported(name: str) -> ModuleSpec | None:
    if name in sys.modules:
        return None
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:  # what it is a part of is not installed
        return None


def _enter(name: str, module: ModuleType) -> None:
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)  # as importing it would have done


def _version(name: str) -> str:
    from importlib import metadata  # noqa: PLC0415  `optiinfra --help` must load nothing

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError as error:
        raise AttributeError(str(error)) from error
