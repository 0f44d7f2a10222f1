"""A load to replay from the operator's checkpoint of an object, as kubectl prints the manifest.

Only the load history of a target is read; what else an operator keeps there is its own business. Steps that were not
measured stay unknown.
"""

import base64
import binascii
import zlib
from pathlib import Path
from typing import Any, Final

import orjson
import yaml

from optiinfra.api.errors import InvalidObject
from optiinfra.api.v1alpha1.checkpoint import OptimizationCheckpoint
from optiinfra.cli.replay_sources import Source, SourceError
from optiinfra.control.checkpoint import VERSION
from optiinfra.domain.histogram import InvalidCheckpointError
from optiinfra.domain.history import LoadHistory
from optiinfra.domain.replay.past import PastError, from_history

MOST_MANIFEST_BYTES: Final = 1 << 20
_MOST_UNPACKED: Final = 256 << 10


def from_checkpoint(path: Path, *, target: str | None) -> Source:
    """Read the kept history of one target of an object. Raises `SourceError`."""
    manifest = _manifest(path)
    spec = manifest.spec
    if spec.version != VERSION:
        raise SourceError(f"{path.name}: spec.version {spec.version}: this optiinfra reads version {VERSION}")
    where = f"{path.name}: spec.state"
    try:
        inflater = zlib.decompressobj()
        raw = inflater.decompress(base64.b64decode(str(spec.state), validate=True), _MOST_UNPACKED)
        if inflater.unconsumed_tail:
            raise SourceError(
                f"{where}: more than {_MOST_UNPACKED >> 10} KiB unpacked, which the operator never writes"
            )
        targets = orjson.loads(raw)["targets"]
        names = sorted(str(name) for name in targets)
        chosen = _chosen(names, target, path.name)
        history = LoadHistory.from_bytes(base64.b64decode(targets[chosen]["history"], validate=True))
        past = from_history(history)
    except (zlib.error, orjson.JSONDecodeError, binascii.Error, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{where}: not what the operator writes ({type(error).__name__})") from error
    except (InvalidCheckpointError, PastError) as error:
        raise SourceError(f"{where}, target {chosen!r}: {error}") from error
    name = f"{manifest.key}, {chosen}" if len(names) > 1 else manifest.key
    return Source(name, past, (f"{past.days * 24.0:.1f} hours are kept; a checkpoint holds at most six",))


def _chosen(names: list[str], target: str | None, file: str) -> str:
    if not names:
        raise SourceError(f"{file}: it holds no history; the operator has not yet seen the service at work")
    if target is None:
        if len(names) > 1:
            raise SourceError(f"{file}: several targets; name one of them with --target: {', '.join(names)}")
        return names[0]
    if target not in names:
        raise SourceError(f"{file}: no target {target!r}; there is {', '.join(names)}")
    return target


def _manifest(path: Path) -> OptimizationCheckpoint:
    try:
        if path.stat().st_size > MOST_MANIFEST_BYTES:
            raise SourceError(f"{path.name}: larger than {MOST_MANIFEST_BYTES >> 20} MiB; give one object")
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path.name} cannot be read: {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise SourceError(f"{path.name}: neither YAML nor JSON; write it with kubectl get ... -o yaml") from error
    if isinstance(document, dict) and str(document.get("kind", "")).endswith("List"):
        items = document.get("items")
        if not isinstance(items, list) or len(items) != 1:
            raise SourceError(f"{path.name}: a list; name the object: kubectl get optimizationcheckpoint NAME -o yaml")
        document = items[0]
    if not isinstance(document, dict):
        raise SourceError(f"{path.name}: no manifest; write it with kubectl get optimizationcheckpoint NAME -o yaml")
    try:
        return OptimizationCheckpoint.parse(document)
    except InvalidObject as error:
        raise SourceError(f"{path.name}: {error}") from error
