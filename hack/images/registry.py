"""Asks a registry which digest a tag has now, and pins the Dockerfile's base to it: `make images ARGS=--pin`.

The digest is that of the list of all architectures where there is one, as `docker buildx imagetools inspect` prints it.
Anonymous, over HTTPS, by the Distribution specification (OCI distribution-spec 1.1, "Pulling manifests") and Docker's
token protocol.
"""

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from hack.cluster.errors import ClusterError

SECONDS = 20.0
_ANSWER_BYTES = 1 << 20
_KINDS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_BASE = re.compile(r"(?m)^ARG BASE=(?P<name>[^\s@]+)(?:@(?P<digest>\S+))?$")


def base(dockerfile: Path) -> tuple[str, str]:
    """Return name with tag and digest of the base that a Dockerfile has by default; the digest may be empty."""
    found = _BASE.search(dockerfile.read_text(encoding="utf-8"))
    if found is None:
        raise ClusterError(f"{dockerfile.name} has no line ARG BASE=")
    return found["name"], found["digest"] or ""


def pin(dockerfile: Path) -> tuple[str, str]:
    """Write the digest that the base's tag has now into a Dockerfile; return the one before and the one now."""
    name, before = base(dockerfile)
    now = digest(name)
    text = dockerfile.read_text(encoding="utf-8")
    dockerfile.write_text(_BASE.sub(f"ARG BASE={name}@{now}", text, count=1), encoding="utf-8")
    return before, now


def digest(image: str, *, scheme: str = "https") -> str:
    """Return the digest of an image named as docker names it (`python:3.11-slim`, `host:5000/team/image:tag`)."""
    host, repository, tag = _parts(image)
    url = f"{scheme}://{host}/v2/{repository}/manifests/{tag}"
    headers = {"Accept": ", ".join(_KINDS)}
    try:
        try:
            answer = _headers(url, headers)
        except urllib.error.HTTPError as error:
            with error:
                challenge = error.headers.get("WWW-Authenticate", "")
            if error.code != 401 or not challenge.startswith("Bearer "):
                raise
            answer = _headers(url, headers | {"Authorization": f"Bearer {_token(challenge)}"})
    except (urllib.error.URLError, TimeoutError, ValueError, KeyError) as error:
        raise ClusterError(f"{host} does not say which digest {image} has: {error}") from error
    if not _DIGEST.fullmatch(answer):
        raise ClusterError(f"{host} answered without a digest for {image}")
    return answer


def _parts(image: str) -> tuple[str, str, str]:
    path, _, tag = image.rpartition(":") if ":" in image.rpartition("/")[2] else (image, "", "latest")
    first, _, rest = path.partition("/")
    if rest and ("." in first or ":" in first or first == "localhost"):
        return first, rest, tag
    return "registry-1.docker.io", path if rest else f"library/{path}", tag


def _headers(url: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(url, headers=headers, method="HEAD")  # noqa: S310  https, but for tests
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310  as above
        return str(answer.headers.get("Docker-Content-Digest", ""))


def _token(challenge: str) -> str:
    """Ask for the token that a challenge (`Bearer realm="...",service="...",scope="..."`) tells of."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    query = urllib.parse.urlencode({key: fields[key] for key in ("service", "scope") if key in fields})
    url = f"{fields['realm']}?{query}"
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:  # noqa: S310  named by the registry
        content = json.loads(answer.read(_ANSWER_BYTES))
    return str(content.get("token") or content["access_token"])
