# syntax=docker/dockerfile:1
# CPU image: two stages, non-root. The embedded Valkey comes with the Python packages; its data belongs on a volume.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
# The compiler builds the CPU kernel; it stays behind in this stage.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/emberwatch
ENV PATH=/opt/emberwatch/bin:$PATH
COPY constraints.txt pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY kernels kernels
COPY model model
COPY service service
# The CPU build of torch: the default one brings gigabytes of CUDA libraries that this image cannot use.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -c constraints.txt .

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /var/lib/emberwatch --create-home emberwatch
COPY --from=build /opt/emberwatch /opt/emberwatch
ENV PATH=/opt/emberwatch/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    EMBERWATCH_DATA_DIR=/var/lib/emberwatch/data \
    # Compiled preprocessing is kept on the volume, so that the next container starts without compiling it again.
    NUMBA_CACHE_DIR=/var/lib/emberwatch/data/numba \
    EMBERWATCH_HOST=0.0.0.0 \
    # A container has to listen beyond loopback to be reached at all; publish the port to 127.0.0.1 or a trusted network.
    EMBERWATCH_ALLOW_OPEN_NETWORK=true
USER 10001
WORKDIR /var/lib/emberwatch
VOLUME /var/lib/emberwatch/data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["emberwatch"]
CMD ["serve"]
