"""Builds, measures and keeps both images of the Dockerfile: `make images`, `python -m hack.images`.

By docker, podman or buildah, whichever works here; as root on Debian or Ubuntu buildah is fetched by apt where there is
none. The base is the Dockerfile's own unless another is named (`--base`); `--base debian` makes it from Debian's
packages, where no registry of images can be reached.
"""
