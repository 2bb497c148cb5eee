# The node on a Jetson with JetPack 6.2 (Jetson Linux R36.4, Ubuntu 22.04, Python 3.10, CUDA 12.6,
# TensorRT 10.3). Build it on the Jetson:
#
#     docker build -f packaging/docker/jetpack6.Dockerfile -t ureca:jp6 .
#     docker run --rm --runtime nvidia --read-only --tmpfs /tmp --network host --device /dev/video0 \
#         -v "$PWD/bundle-orin:/bundle:ro" ureca:jp6 --bundle /bundle --source v4l2:///dev/video0
#
# /bundle is a TensorRT bundle that was exported on this Jetson with this TensorRT (docs/export.md);
# a plan of another version or device is refused. Without one, the shipped bundle runs on the CPU cores.
#
# UNBUILT: neither an engine nor a Jetson was at hand where this was written. NVIDIA has no image for
# r36.4.3 (JetPack 6.2): r36.4.0 (6.1) is the newest of the line and has the same CUDA and TensorRT.
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0

FROM ${BASE} AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv=3.10.* \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY packaging/lock packaging/lock
# TensorRT's Python package is the system's (python3-libnvinfer), never a wheel: hence its site-packages.
# The lock comes first on the path, so that the system's numpy 1.21 is not what is imported.
RUN python3 -m venv /build \
 && /build/bin/pip install --no-cache-dir --require-hashes --requirement packaging/lock/build.txt \
 && python3 -m venv --system-site-packages /opt/ureca \
 && /opt/ureca/bin/pip install --no-cache-dir --ignore-installed --require-hashes \
        --requirement packaging/lock/node.txt \
 && /opt/ureca/bin/pip install --no-cache-dir 'cuda-bindings>=12.6,<13'
COPY . .
RUN for project in . packaging/ureca-nano; do \
        /build/bin/python -m build --wheel --no-isolation --outdir /dist "$project" || exit 1; \
    done \
 && /opt/ureca/bin/pip install --no-cache-dir --no-index --no-deps /dist/*.whl

FROM ${BASE}
RUN useradd --system --uid 10001 --groups video --no-create-home --shell /usr/sbin/nologin ureca
COPY --from=build /opt/ureca /opt/ureca
ENV PATH=/opt/ureca/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /tmp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=6s --start-period=120s --retries=3 \
    CMD ["/bin/sh", "-c", "ureca health --timeout 5 || exit 1"]
ENTRYPOINT ["ureca", "run"]
CMD ["--loop", "--quiet"]
