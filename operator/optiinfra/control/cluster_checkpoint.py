"""What a new leader goes on with for a ClusterResourceOptimization: the pauses and the power at rest of its GPUs.

A GPU's own pauses are what makes an idle verdict right for it, and they take days to learn. They are kept in
OptimizationCheckpoints in the operator's namespace, owned by the object; one is enough for some hundred GPUs, and
there are at most 16. Since when a GPU is idle or a node could be emptied is not kept: nobody watched meanwhile, and
the windows begin anew.
"""

import hashlib
import logging
from collections.abc import Iterable
from typing import Final

from optiinfra import metrics
from optiinfra.cluster.checkpoints import CLUSTER_OWNER, STATE_LIMIT_BYTES, CheckpointRecord
from optiinfra.cluster.document import Key
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import ObjectMemory
from optiinfra.domain.histogram import InvalidCheckpointError
from optiinfra.domain.idle.saved import packed, unpacked
from optiinfra.domain.units import UnixTime

_LOG = logging.getLogger(__name__)
VERSION: Final = 1
_LONGEST_NAME: Final = 63
"""Of our objects, as their schema has it."""


def records_of(
    key: ObjectKey, memory: ObjectMemory, *, namespace: str, uid: str, now: UnixTime
) -> tuple[CheckpointRecord, ...]:
    """Return the checkpoints of an object as they would be written now."""
    return tuple(
        CheckpointRecord(
            key=Key(namespace, _name(key.name, part)),
            version=VERSION,
            time=now,
            state=state,
            owner_uid=uid,
            owner_kind=CLUSTER_OWNER,
            owner_name=key.name,
        )
        for part, state in enumerate(packed(memory.gpus.learned(), limit=STATE_LIMIT_BYTES))
    )


def restore(records: Iterable[CheckpointRecord], memory: ObjectMemory) -> bool:
    """Fill a memory from the parts of one object; True when any of them could be read.

    A part that was left over from a larger fleet is older, and what newer parts say of a GPU goes before it.
    """
    done = False
    for record in sorted(records, key=lambda one: (-one.time, one.key)):
        try:
            if record.version != VERSION:
                raise InvalidCheckpointError(f"checkpoint of version {record.version}, this is {VERSION}")  # noqa: TRY301  one way out
            memory.gpus.relearn(unpacked(record.state), at=record.time)
        except InvalidCheckpointError as error:
            _LOG.warning("checkpoint not usable", extra={"checkpoint": str(record.key), "error": str(error)})
            metrics.CHECKPOINTS.labels("broken").inc()
        else:
            metrics.CHECKPOINTS.labels("restored").inc()
            done = True
    return done


def _name(owner: str, part: int) -> str:
    name = f"cluster.{owner}.{part}"
    return name if len(name) <= _LONGEST_NAME else f"cluster.{hashlib.sha256(owner.encode()).hexdigest()[:32]}.{part}"
