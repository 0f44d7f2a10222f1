"""`python -m hack.images`: build the images of operator and agent, and print their sizes."""

import argparse
import sys

from hack.cluster.errors import ClusterError
from hack.images import build, registry, tools


def main() -> int:
    """Build; 1 when that fails or an image is larger than promised."""
    parser = argparse.ArgumentParser(prog="python -m hack.images", description=__doc__)
    parser.add_argument("--image", default="optiinfra", help="what the names begin with (%(default)s)")
    parser.add_argument("--tag", default="dev", help="(%(default)s)")
    parser.add_argument("--tool", choices=tools.NAMES, help="instead of the first that works")
    parser.add_argument(
        "--base", help=f"image to build on, best by digest; {build.DEBIAN}: made here from Debian's packages"
    )
    parser.add_argument("--runtime", help="image that the result stands on, when it is another one")
    parser.add_argument("--chart-names", action="store_true", help="name them as the chart's default values do")
    parser.add_argument("--compare", action="store_true", help="build twice, and fail when one byte differs")
    parser.add_argument("--pin", action="store_true", help="only pin the Dockerfile's base to what its tag is now")
    given = parser.parse_args()
    tags = {target: f"{given.image}/{target}:{given.tag}" for target in build.TARGETS}
    if given.chart_names:
        tags = build.chart_names()
    try:
        if given.pin:
            before, now = registry.pin(build.ROOT / "Dockerfile")
            print(f"pinned to {now}, before: {before or 'not pinned'}")
            return 0
        tool = tools.find(given.tool, say=_say)
        images = build.build(tool, tags=tags, base=given.base, runtime=given.runtime, say=_say)
        found = _compare(tool, images, given) if given.compare else {}
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for image in images:
        print(f"{image.tag}: {image.verdict} ({image.seconds:.0f} s); {image.path.relative_to(build.ROOT)}")
        listed = f"{image.base_packages} packages of the base" if image.base_packages else "NO list of what the base is"
        print(f"  sha256:{image.digest[:16]}; bill of materials with {listed}")
    if not build.is_pinned(given.base):
        print("the base is NOT pinned by digest: what the tag names tomorrow may be another image")
    return int(bool(found) or any(image.size > build.NEEDED[image.target] for image in images))


def _compare(tool: tools.Tool, images: list[build.Image], given: argparse.Namespace) -> dict[str, list[str]]:
    found = build.differences(tool, images, base=given.base, runtime=given.runtime, say=_say)
    for name, lines in found.items():
        _say(f"{name} is NOT the same when it is built twice:")
        for line in lines:
            _say(f"  {line}")
    if not found:
        _say("built twice, every byte the same")
    return found


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
