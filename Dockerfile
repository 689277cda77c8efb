ARG PYTHON=python:3.13-slim

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# "all" holds every store and output, each imported only when the configuration names it; "run" is the smallest.
ARG REQUIREMENTS=all
COPY requirements/ requirements/
RUN python -m venv --without-pip /opt/token-sidecar \
 && python -m pip install --require-hashes --requirement requirements/build.txt \
 && python -m pip --python /opt/token-sidecar install --require-hashes --requirement "requirements/${REQUIREMENTS}.txt"

COPY LICENSE README.md pyproject.toml ./
COPY sidecar/ sidecar/
# Byte code is compiled here, because the running container can't write it: its file system may be read-only.
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python -m pip --python /opt/token-sidecar install --no-deps /wheels/*.whl \
 && python -m compileall -q /opt/token-sidecar/lib

FROM ${PYTHON}
LABEL org.opencontainers.image.title="token-sidecar" \
      org.opencontainers.image.description="Keeps OAuth2 tokens fresh in files beside a container" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/token-sidecar /opt/token-sidecar
# The state directory is the only one it writes to on its own account; mount a memory volume over it.
RUN install --directory --mode=0700 --owner=65532 --group=65532 /run/token-sidecar
ENV PATH=/opt/token-sidecar/bin:$PATH \
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
