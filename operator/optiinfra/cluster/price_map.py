"""The table of node prices out of its ConfigMap: one bounded GET by name in the operator's own namespace.

The right is to that one name (`prices.configMap` in the chart's values); nothing is listed or watched. What is wrong
with the table is told with its row (`domain.price_table`).
"""

from typing import Final

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import JsonObject, mapping
from optiinfra.cluster.errors import Absent, ClusterError, Denied, Invalid, Malformed
from optiinfra.domain.price_table import PriceTable, read_table
from optiinfra.domain.readings import Unknown, UnknownReason

KEY: Final = "prices.csv"
ANSWER_LIMIT_BYTES: Final = 1024 * 1024
_FORBIDDEN: Final = 403


class PriceMap:
    """Reads one ConfigMap."""

    def __init__(self, client: KubernetesClient, *, namespace: str, name: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name

    @property
    def shown(self) -> str:
        """The ConfigMap, for people."""
        return f"ConfigMap {self._namespace}/{self._name}"

    async def read(self) -> PriceTable | Unknown:
        """Return the table, or why there is none; never raises for an answer of the server.

        `Unreachable` alone is no news: the table may be what it was. Every other reason is about the ConfigMap.
        """
        path = f"/api/v1/namespaces/{self._namespace}/configmaps/{self._name}"
        try:
            document = await self._client.get(path, limit_bytes=ANSWER_LIMIT_BYTES)
        except Absent:
            text = f"it does not exist; create it with the key {KEY}, or empty prices.configMap in the chart's values"
            return self._unknown(UnknownReason.NOT_CONFIGURED, text)
        except Denied as error:
            if error.code != _FORBIDDEN:
                return self._unknown(UnknownReason.UNREACHABLE, error.message)
            text = "Forbidden; name it as prices.configMap in the chart's values, which makes the right to read it"
            return self._unknown(UnknownReason.REFUSED, text)
        except (Malformed, Invalid) as error:
            return self._unknown(UnknownReason.INVALID, f"{error.message}; keep the prices in a ConfigMap of their own")
        except ClusterError as error:
            return self._unknown(UnknownReason.UNREACHABLE, error.message)
        return self._table(document)

    def _table(self, document: JsonObject) -> PriceTable | Unknown:
        written = mapping(document, "data").get(KEY)
        if not isinstance(written, str):
            return self._unknown(UnknownReason.NOT_CONFIGURED, f"it has no key {KEY}; add it")
        return read_table(written, name=self.shown)

    def _unknown(self, reason: UnknownReason, text: str) -> Unknown:
        return Unknown(reason, f"{self.shown}: {text[:300]}")
