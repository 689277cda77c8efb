# syntax=docker/dockerfile:1

# Both stages take this one. A release is built with the digest that its tag had: PYTHON_DIGEST=@sha256:…
ARG PYTHON=python:3.13-slim
ARG PYTHON_DIGEST=

FROM ${PYTHON}${PYTHON_DIGEST} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN apt-get update --quiet --quiet \
 && apt-get install --quiet --yes --no-install-recommends binutils
WORKDIR /build

# "all" holds every store and output, each imported only when the configuration names it; "run" is the smallest.
ARG REQUIREMENTS=all
COPY requirements/ requirements/
RUN python -m venv --without-pip /opt/token-sidecar \
 && python -m pip install --require-hashes --requirement requirements/build.txt \
 && python -m pip --python /opt/token-sidecar/bin/python install --no-compile --require-hashes \
    --requirement "requirements/${REQUIREMENTS}.txt"

COPY LICENSE README.md pyproject.toml ./
COPY sidecar/ sidecar/
COPY image/ image/
# Byte code is compiled here, because the running container can't write it: its file system may be read-only.
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python -m pip --python /opt/token-sidecar/bin/python install --no-compile --no-deps /wheels/*.whl \
 && python image/trim.py /opt/token-sidecar \
 && python image/root.py /opt/token-sidecar /rootfs
# What the loader can't find there ends the build, not the first pod.
RUN chroot /rootfs /opt/token-sidecar/bin/python -c "import bz2, ctypes, lzma, sqlite3, ssl, zlib" \
 && chroot /rootfs /opt/token-sidecar/bin/token-sidecar providers list

# What the image and its variant have in common is written twice: a stage can't be mixed into two others.
FROM ${PYTHON}${PYTHON_DIGEST} AS debug
LABEL org.opencontainers.image.title="token-sidecar (debug)" \
      org.opencontainers.image.description="token-sidecar with a shell and pip, to look around in; not for production" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/token-sidecar /opt/token-sidecar
COPY --from=build /rootfs/run/ /run/
ENV PATH=/opt/token-sidecar/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RUNTIME_DIRECTORY=/run/token-sidecar
USER 65532:65532
EXPOSE 9640
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["token-sidecar", "healthcheck", "live"]
ENTRYPOINT ["token-sidecar"]
CMD ["run"]

# The image: no shell, no package manager, nothing that the daemon doesn't need. See docs/explanation/image.md.
FROM scratch AS image
ARG VERSION=
ARG REVISION=
ARG CREATED=
ARG SOURCE=
LABEL org.opencontainers.image.title="token-sidecar" \
      org.opencontainers.image.description="Keeps OAuth2 tokens fresh in files beside a container" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"
COPY --from=build /rootfs/ /
ENV PATH=/opt/token-sidecar/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RUNTIME_DIRECTORY=/run/token-sidecar
# A number, because Kubernetes can't tell whether a name is root.
USER 65532:65532
EXPOSE 9640
# For Compose and plain Docker; kubelet has its own probes.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["token-sidecar", "healthcheck", "live"]
ENTRYPOINT ["token-sidecar"]
CMD ["run"]
