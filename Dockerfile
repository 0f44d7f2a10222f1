# Two images: `docker build --target operator .` and `--target agent` (or `make images`, which can also make the base).
# BASE may be any image with Python 3.11 or newer and pip, such as a mirror of your own, best by digest. RUNTIME is what
# the result stands on: it needs the same Python at the same path, and neither pip nor a shell.
# Steps that fetch take two secrets where they are given: `pip`, a pip.conf with an index of yours, and `certificates`.
# Pinned, for all architectures; `make images ARGS=--pin` writes the digest that the tag has now.
ARG BASE=python:3.11-slim-bookworm@sha256:528257d48c1da0dcecc2e725d1ae34498d60c965f1241e39cd6a85a8859bdf84
ARG RUNTIME=${BASE}

# The wheel, built with the build tools of the lock file, by hash.
FROM ${BASE} AS wheel
# The time of all that is made here; with it and PYTHONHASHSEED the same sources give the same bytes.
ARG SOURCE_DATE_EPOCH=315532800
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
COPY requirements/all.lock all.lock
# hatchling and what it needs; the tests hold this list to the lock file.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=certificates \
    python -c "import re; names = 'hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers'; \
      print(''.join(re.findall(r'(?m)^(?:' + names + r')==.*\n(?: .*\n)*', open('all.lock').read())))" > build.lock \
    && python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: --requirement build.lock
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY operator operator
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheel .

# Dependencies come before our own code, so that a change of the code does not fetch them again. `--only-binary` means
# that nothing is ever compiled, so no compiler is needed anywhere; the venv has no pip of its own.
FROM ${BASE} AS operator-builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/operator.lock /requirements.lock
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=certificates \
    python -m venv --without-pip /opt/optiinfra \
    && pip --python /opt/optiinfra/bin/python install --no-compile --no-deps --require-hashes --only-binary :all: \
       --requirement /requirements.lock
COPY --from=wheel /wheel /wheel
# What is removed, 85 MB that nothing loads: classes for every call of the API (the operator makes its own calls), a
# second backend for another interpreter, tools of numpy's own builds, and tests. Models of the API are 1700 files of
# which three are loaded, lexers are 500: they stay sources. -f: pip itself loads some, which leaves the hour in them.
RUN pip --python /opt/optiinfra/bin/python install --no-compile --no-deps --no-index /wheel/*.whl \
    && cd /opt/optiinfra/lib/python3*/site-packages \
    && rm -rf kubernetes/client/api kubernetes/aio/client/api zstandard/_cffi.*.so \
       numpy/distutils numpy/f2py numpy/_core/_simd.*.so \
    && find . -type d -name tests -prune -exec rm -r {} + && find . -name '*.pyi' -delete \
    && PYTHONHASHSEED=0 /opt/optiinfra/bin/python -m compileall -q -f -j 0 --invalidation-mode unchecked-hash \
       -x 'client/models/v|pygments/lexers/' /opt/optiinfra/lib

FROM ${BASE} AS agent-builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/agent.lock /requirements.lock
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=certificates \
    python -m venv --without-pip /opt/optiinfra \
    && pip --python /opt/optiinfra/bin/python install --no-compile --no-deps --require-hashes --only-binary :all: \
       --requirement /requirements.lock
COPY --from=wheel /wheel /wheel
RUN pip --python /opt/optiinfra/bin/python install --no-compile --no-deps --no-index /wheel/*.whl \
    && PYTHONHASHSEED=0 /opt/optiinfra/bin/python -m compileall -q -f -j 0 --invalidation-mode unchecked-hash \
       /opt/optiinfra/lib

FROM ${RUNTIME} AS operator
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="OptiInfra operator" \
      org.opencontainers.image.description="Finds and removes waste in clusters that serve LLMs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.authors="the OptiInfra authors" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
COPY --from=operator-builder /opt/optiinfra /opt/optiinfra
# The root file system is read-only in the cluster; /tmp is the only place that is written to.
ENV PATH=/opt/optiinfra/bin:${PATH} HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /
USER 65532:65532
EXPOSE 8080 8443
ENTRYPOINT ["optiinfra"]
CMD ["operator"]

FROM ${RUNTIME} AS agent
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="OptiInfra agent" \
      org.opencontainers.image.description="Measures GPU, CPU and memory of one node for OptiInfra" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.authors="the OptiInfra authors" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
COPY --from=agent-builder /opt/optiinfra /opt/optiinfra
ENV PATH=/opt/optiinfra/bin:${PATH} HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /
USER 65532:65532
EXPOSE 8003
ENTRYPOINT ["optiinfra-agent"]
