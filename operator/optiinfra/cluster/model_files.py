"""A model's configuration file out of a ConfigMap: one bounded GET by name, and facts, or why there are none.

Nothing is listed or watched: the right to read ConfigMaps is opt-in, and a file of a model hardly ever changes. What
the file says never appears in a message: whoever may write an object need not be allowed to read the ConfigMap that it
names.
"""

from typing import Final

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import JsonObject, mapping
from optiinfra.cluster.errors import Absent, ClusterError, Denied, Invalid, Malformed
from optiinfra.domain.model_facts import ModelFacts
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.engines.model_config import facts_from

ANSWER_LIMIT_BYTES: Final = 1024 * 1024
_FORBIDDEN: Final = 403


class ModelFiles:
    """Reads one key of a ConfigMap as a model's config.json."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    async def read(self, *, namespace: str, name: str, key: str) -> ModelFacts | Unknown:
        """Return what the file says, or why it cannot be known; never raises for an answer of the server.

        `Unreachable` alone is no news: the file may be what it was. Every other reason is about the file.
        """
        path = f"/api/v1/namespaces/{namespace}/configmaps/{name}"
        try:
            document = await self._client.get(path, limit_bytes=ANSWER_LIMIT_BYTES)
            return _facts(document, key)
        except Absent:
            return Unknown(UnknownReason.NOT_CONFIGURED, "it does not exist; create it, or correct the name")
        except Denied as error:
            if error.code != _FORBIDDEN:
                return Unknown(UnknownReason.UNREACHABLE, error.message[:256])
            return Unknown(
                UnknownReason.REFUSED,
                "Forbidden; let the operator read ConfigMaps of this namespace: modelConfigMaps.enabled (and "
                "modelConfigMaps.namespaces) in the chart's values",
            )
        except (Malformed, Invalid) as error:
            return Unknown(UnknownReason.INVALID, f"{error.message[:256]}; keep the file in a ConfigMap of its own")
        except ClusterError as error:
            return Unknown(UnknownReason.UNREACHABLE, error.message[:256])


def _facts(document: JsonObject, key: str) -> ModelFacts | Unknown:
    written = mapping(document, "data").get(key)
    if not isinstance(written, str):
        if key in mapping(document, "binaryData"):
            return Unknown(UnknownReason.INVALID, "the key holds no text; give the model's own file, in UTF-8")
        return Unknown(UnknownReason.NOT_CONFIGURED, "it has no such key; add it, or correct the key")
    found = facts_from(written)
    if isinstance(found, Unknown):
        return Unknown(found.reason, found.detail.removeprefix("config.json: "))
    if isinstance(found.layers, Unknown):
        return Unknown(UnknownReason.INVALID, "it gives no number of layers; give the model's own config.json")
    return found
