# syntax=docker/dockerfile:1
# Two images from one file:
#   docker build --target cpu  -t emberwatch:0.1.0 .        (the default)
#   docker build --target cuda -t emberwatch:0.1.0-cuda .   (the driver comes from the host: NVIDIA container toolkit)
# Both run as user 10001 with a read-only root file system; what they write goes to /var/lib/emberwatch and /tmp.
ARG PYTHON=3.11.11-slim-bookworm

FROM python:${PYTHON} AS source
WORKDIR /src
# The compiler builds the CPU kernel; it stays behind in this stage.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/* \
    && python -m venv --without-pip /opt/emberwatch
COPY constraints.txt pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY kernels kernels
COPY model model
COPY service service

FROM source AS build-cpu
# The CPU build of torch: the default one brings gigabytes of CUDA libraries that this image cannot use.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=otel
RUN pip --python /opt/emberwatch/bin/python install --no-cache-dir --extra-index-url "$TORCH_INDEX" \
    -c constraints.txt ".[$EXTRAS]"

FROM source AS build-cuda
# Torch with its CUDA libraries, NVRTC and the driver's bindings; not mamba-ssm, which only benchmarks compare with.
ARG EXTRAS=gpu,otel
RUN pip --python /opt/emberwatch/bin/python install --no-cache-dir -c constraints.txt ".[$EXTRAS]"

FROM python:${PYTHON} AS runtime
RUN useradd --system --uid 10001 --home-dir /var/lib/emberwatch --create-home emberwatch \
    && install --directory --owner=10001 /var/lib/emberwatch/data
ENV PATH=/opt/emberwatch/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    # Compiled preprocessing is kept on the volume, so that the next container starts without compiling it again.
    NUMBA_CACHE_DIR=/var/lib/emberwatch/data/numba \
    EMBERWATCH_DATA_DIR=/var/lib/emberwatch/data \
    EMBERWATCH_DRAIN_S=5 \
    # Beyond loopback the service wants API keys (EMBERWATCH_KEYS_FILE), or somebody who says that it shall be open.
    EMBERWATCH_HOST=0.0.0.0
USER 10001
WORKDIR /var/lib/emberwatch
VOLUME /var/lib/emberwatch/data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ.get('EMBERWATCH_PORT', 8000)}/livez\", timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["emberwatch"]
CMD ["serve"]

FROM runtime AS cuda
COPY --from=build-cuda /opt/emberwatch /opt/emberwatch
ENV EMBERWATCH_BACKEND=cuda

FROM runtime AS cpu
COPY --from=build-cpu /opt/emberwatch /opt/emberwatch
