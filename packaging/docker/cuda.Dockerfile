# The node on a desktop or server with an NVIDIA GPU (x86_64): ONNX Runtime's CUDA provider.
#
#     docker build -f packaging/docker/cuda.Dockerfile -t ureca:cuda .
#     docker run --rm --gpus all --read-only --tmpfs /tmp --network host \
#         -v "$PWD/bundle-gpu:/bundle:ro" ureca:cuda --bundle /bundle --source rtsp://camera/stream
#
# /bundle is one that `ureca export CHECKPOINT -o bundle-gpu --runtime ort-gpu` wrote. The shipped bundle
# runs here as well, but on the CPU: it was made for it.
#
# UNBUILT: neither an engine nor a GPU was at hand where this was written. CUDA 12 and cuDNN 9 of the
# base are what onnxruntime-gpu 1.20 to 1.26 want; later ones are built for CUDA 13: take both from one line.
ARG CUDA=12.9.1

FROM nvidia/cuda:${CUDA}-cudnn-runtime-ubuntu24.04 AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv=3.12.* \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY packaging/lock packaging/lock
# The lock is that of the CPU; its runtime is exchanged, for two packages of one import name cannot live
# side by side.
RUN python3 -m venv /build \
 && /build/bin/pip install --no-cache-dir --require-hashes --requirement packaging/lock/build.txt \
 && python3 -m venv /opt/ureca \
 && /opt/ureca/bin/pip install --no-cache-dir --require-hashes --requirement packaging/lock/node.txt \
 && /opt/ureca/bin/pip uninstall --yes onnxruntime \
 && /opt/ureca/bin/pip install --no-cache-dir 'onnxruntime-gpu>=1.20,<1.27' 'cuda-bindings>=12.6,<13'
COPY . .
RUN for project in . packaging/ureca-nano; do \
        /build/bin/python -m build --wheel --no-isolation --outdir /dist "$project" || exit 1; \
    done \
 && /opt/ureca/bin/pip install --no-cache-dir --no-index --no-deps /dist/*.whl \
 && /opt/ureca/bin/python -m compileall -q /opt/ureca/lib

FROM nvidia/cuda:${CUDA}-cudnn-runtime-ubuntu24.04
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3=3.12.* \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --groups video --no-create-home --shell /usr/sbin/nologin ureca
COPY --from=build /opt/ureca /opt/ureca
ENV PATH=/opt/ureca/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
USER 10001
WORKDIR /tmp
STOPSIGNAL SIGTERM
# Opening a GPU's engine takes longer than a CPU's: hence the long start.
HEALTHCHECK --interval=15s --timeout=6s --start-period=120s --retries=3 \
    CMD ["/bin/sh", "-c", "ureca health --timeout 5 || exit 1"]
ENTRYPOINT ["ureca", "run"]
CMD ["--loop", "--quiet"]
