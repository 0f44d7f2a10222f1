"""`python -m hack.images`: build the images of operator and agent, and print their sizes."""

import argparse
import sys

from hack.cluster.errors import ClusterError
from hack.images import build, tools


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
    given = parser.parse_args()
    tags = {target: f"{given.image}/{target}:{given.tag}" for target in build.TARGETS}
    try:
        tool = tools.find(given.tool, say=_say)
        images = build.build(tool, tags=tags, base=given.base, runtime=given.runtime, say=_say)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for image in images:
        print(f"{image.tag}: {image.verdict} ({image.seconds:.0f} s); {image.path.relative_to(build.ROOT)}")
    return int(any(image.size > build.NEEDED[image.target] for image in images))


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
