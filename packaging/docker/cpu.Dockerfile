# The node on CPUs, x86_64 and aarch64.
#
#     docker build -f packaging/docker/cpu.Dockerfile -t ureca:cpu .
#     docker run --rm --read-only --tmpfs /tmp --network host ureca:cpu --source rtsp://camera/stream
#
# UNBUILT: no engine was at hand where this was written. Its RUN lines were run by hand, in its order,
# in a Debian 12 environment with Python 3.11; see docs/install.md.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
WORKDIR /source
COPY packaging/lock packaging/lock
RUN python -m venv /build \
 && /build/bin/pip install --no-cache-dir --require-hashes --requirement packaging/lock/build.txt \
 && python -m venv /opt/ureca \
 && /opt/ureca/bin/pip install --no-cache-dir --require-hashes --requirement packaging/lock/node.txt
COPY . .
RUN for project in . packaging/ureca-nano; do \
        /build/bin/python -m build --wheel --no-isolation --outdir /dist "$project" || exit 1; \
    done \
 && /opt/ureca/bin/pip install --no-cache-dir --no-index --no-deps /dist/*.whl \
 && /opt/ureca/bin/python -m compileall -q /opt/ureca/lib

FROM python:${PYTHON}-slim-bookworm
# Group `video` opens /dev/video*; give the container the device with --device.
RUN useradd --system --uid 10001 --groups video --no-create-home --shell /usr/sbin/nologin ureca
COPY --from=build /opt/ureca /opt/ureca
ENV PATH=/opt/ureca/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /tmp
STOPSIGNAL SIGTERM
# Asks the node itself; exit 2, which Docker reserves, becomes 1.
HEALTHCHECK --interval=15s --timeout=6s --start-period=30s --retries=3 \
    CMD ["/bin/sh", "-c", "ureca health --timeout 5 || exit 1"]
ENTRYPOINT ["ureca", "run"]
CMD ["--loop", "--quiet"]
