"""Prompt templates, versioned by folder, and how a request becomes one question.

A template is Markdown with `$placeholders` (string.Template). A change of wording is a new version folder, so that a
recorded prompt hash keeps its meaning. What replaces a placeholder comes from `redaction` only.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from string import Template
from typing import Final

from optiinfra.analysis.redaction import candidate_lines, objective_lines, refuse_open_words, signal_lines, step_lines
from optiinfra.analysis.request import InsightRequest
from optiinfra.analysis.vocabulary import SCHEMA_VERSION

VERSION: Final = "v1"
TEMPLATES: Final = ("system", "metrics_analysis", "recommendation", "action_plan")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question, as it is sent."""

    system: str
    user: str
    hash: str
    """SHA-256 of both texts, the template version and the answer's schema version."""

    @property
    def characters(self) -> int:
        """Length of what is sent."""
        return len(self.system) + len(self.user)


@cache
def template(name: str) -> Template:
    """Return a template of the current version."""
    text = resources.files(__name__).joinpath(VERSION, f"{name}.md").read_text(encoding="utf-8")
    return Template(text)


def render(request: InsightRequest) -> Prompt:
    """Render the question about one object.

    Raises:
        RequestRefused: a word outside the closed sets would enter the prompt.
    """
    blocks = {
        "bottleneck": str(request.bottleneck),
        "signals": "\n".join(signal_lines(request)),
        "objectives": "\n".join(objective_lines(request)),
        "candidates": "\n".join(candidate_lines(request)),
        "steps": "\n".join(step_lines()),
    }
    for name, block in blocks.items():
        refuse_open_words(block, field=name)
    system = template("system").substitute()
    user = "\n\n".join(template(name).substitute(blocks).strip() for name in TEMPLATES[1:])
    digest = hashlib.sha256(f"{VERSION}\0{SCHEMA_VERSION}\0{system}\0{user}".encode()).hexdigest()
    return Prompt(system=system, user=user, hash=digest)
