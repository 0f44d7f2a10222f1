"""Which version of which engine a workload ran, and when.

No engine's page tells its version. The image that a container runs does (kube-state-metrics), by its tag; else, for
vLLM, the families that only older or only newer versions have, which tells a range.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra.domain.readings import EngineKind
from optiinfra.domain.report.history import BoolArray, Span
from optiinfra.domain.report.joining_frames import Answers, present
from optiinfra.domain.report.joining_owners import Owners

_IMAGES: Final[Mapping[EngineKind, tuple[str, ...]]] = {
    EngineKind.VLLM: ("vllm",),
    EngineKind.SGLANG: ("sglang",),
    EngineKind.TGI: ("text-generation-inference", "tgi"),
    EngineKind.TRTLLM: ("tensorrt", "trtllm"),
    EngineKind.NIM: ("nim/", "nim-"),
    EngineKind.TRITON: ("triton",),
}
"""What an engine's images are called."""
_TAG: Final = re.compile(r":([A-Za-z0-9_][A-Za-z0-9._-]{0,127})(@.*)?$")
_SIGNS: Final = ("V0", "<0.12", ">=0.9")


@dataclass(frozen=True, slots=True)
class Versions:
    """What is known of versions."""

    answers: Answers
    owners: Owners

    def engines(
        self, key: tuple[str, str], seen: Mapping[EngineKind, BoolArray]
    ) -> tuple[tuple[EngineKind, Span], ...]:
        """Return engines and versions of a workload, the newest first."""
        listed: list[tuple[EngineKind, Span]] = []
        for kind, mask in seen.items():
            tags = self._tags(key, kind, single=len(seen) == 1)
            if not tags and kind is EngineKind.VLLM:
                tags = self._signs(key)
            told = {text: when & mask for text, when in tags.items() if (when & mask).any()}
            for text, when in (told or {"": mask}).items():
                at = np.flatnonzero(when)
                if at.size:
                    times = self.answers.times
                    listed.append((kind, Span(text, float(times[at[0]]), float(times[at[-1]]), when)))
        return tuple(sorted(listed, key=lambda one: (-one[1].last, -one[1].first, one[0].value, one[1].text)))

    def _tags(self, key: tuple[str, str], kind: EngineKind, *, single: bool) -> dict[str, BoolArray]:
        """Return the tags of images that look like the engine's; of a lone container whatever its image is called."""
        named: dict[str, BoolArray] = {}
        others: dict[str, BoolArray] = {}
        containers: set[str] = set()
        for labels, values, _ in self.answers.each("state.images"):
            if self.owners.of(labels["namespace"], labels["workload"]).key != key:
                continue
            containers.add(labels["container"])
            tag = _TAG.search(labels["image"])
            if tag is None:
                continue
            into = named if any(word in labels["image"].lower() for word in _IMAGES[kind]) else others
            into[tag.group(1)] = into.get(tag.group(1), self.answers.never()) | present(values)
        if named or not single or len(containers) != 1:
            return named
        return others

    def _signs(self, key: tuple[str, str]) -> dict[str, BoolArray]:
        """Return ranges of versions; the families of two ranges together are of those that had both."""
        found: dict[str, BoolArray] = {}
        for labels, values, _ in self.answers.each("vllm.versions"):
            if self.owners.of(labels["namespace"], labels["workload"]).key == key:
                text = labels["version"]
                found[text] = found.get(text, self.answers.never()) | present(values)
        oldest = self.answers.never()
        exclusive: dict[str, BoolArray] = {}
        for text in _SIGNS:
            when = found.get(text, self.answers.never())
            exclusive[text] = when & ~oldest if text != ">=0.9" else when
            oldest = oldest | when
        return {text: when for text, when in exclusive.items() if when.any()}
