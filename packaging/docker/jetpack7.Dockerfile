# The node on a Jetson with JetPack 7.2 (Orin or Thor; Jetson Linux R39.2, Ubuntu 24.04, Python 3.12,
# CUDA 13.2, TensorRT 10.16). Build it on the Jetson:
#
#     docker build -f packaging/docker/jetpack7.Dockerfile -t ureca:jp7 .
#     docker run --rm --runtime nvidia --gpus all --read-only --tmpfs /tmp --network host \
#         --device /dev/video0 -v "$PWD/bundle-orin:/bundle:ro" \
#         ureca:jp7 --bundle /bundle --source v4l2:///dev/video0
#
# /bundle is a TensorRT bundle that was exported on this Jetson with this TensorRT (docs/export.md);
# a plan of another version or device is refused. Without one, the shipped bundle runs on the CPU cores.
#
# UNBUILT: neither an engine nor a Jetson was at hand where this was written. From JetPack 7 on there is
# no l4t-jetpack image: plain Ubuntu and NVIDIA's apt repository of the release take its place. Others
# report that TensorRT's Python package does not load on R39 where libnvdla_compiler.so is missing;
# `ureca doctor` says whether it loads.
ARG UBUNTU=24.04

FROM ubuntu:${UBUNTU} AS base
ARG L4T=r39.2
ADD https://repo.download.nvidia.com/jetson/jetson-ota-public.asc /usr/share/keyrings/nvidia-jetson.asc
# apt reads keys as `_apt`; ADD of an address leaves the file to root alone. Certificates come newest.
# hadolint ignore=DL3008
RUN chmod 0644 /usr/share/keyrings/nvidia-jetson.asc \
 && apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates \
 && echo "deb [signed-by=/usr/share/keyrings/nvidia-jetson.asc] https://repo.download.nvidia.com/jetson/common ${L4T} main" \
        > /etc/apt/sources.list.d/nvidia-jetson.list \
 && apt-get update \
 && apt-get install --yes --no-install-recommends \
        cuda-cudart-13-2=13.2.* python3=3.12.* python3-libnvinfer=10.16.* \
 && rm -rf /var/lib/apt/lists/*

FROM base AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv=3.12.* \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY packaging/lock packaging/lock
# TensorRT's Python package is the system's (python3-libnvinfer), never a wheel: hence its site-packages.
RUN python3 -m venv /build \
 && /build/bin/pip install --no-cache-dir --require-hashes --requirement packaging/lock/build.txt \
 && python3 -m venv --system-site-packages /opt/ureca \
 && /opt/ureca/bin/pip install --no-cache-dir --ignore-installed --require-hashes \
        --requirement packaging/lock/node.txt \
 && /opt/ureca/bin/pip install --no-cache-dir 'cuda-bindings>=13,<14'
COPY . .
RUN for project in . packaging/ureca-nano; do \
        /build/bin/python -m build --wheel --no-isolation --outdir /dist "$project" || exit 1; \
    done \
 && /opt/ureca/bin/pip install --no-cache-dir --no-index --no-deps /dist/*.whl

FROM base
RUN useradd --system --uid 10001 --groups video --no-create-home --shell /usr/sbin/nologin ureca
COPY --from=build /opt/ureca /opt/ureca
ENV PATH=/opt/ureca/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
USER 10001
WORKDIR /tmp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=6s --start-period=120s --retries=3 \
    CMD ["/bin/sh", "-c", "ureca health --timeout 5 || exit 1"]
ENTRYPOINT ["ureca", "run"]
CMD ["--loop", "--quiet"]
