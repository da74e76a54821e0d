# The service (default) and the trainer (--target training); docs/how-to/containers.md says how to build and run them.
#
# Any base does that has a shell and CPython 3.11 or newer with venv: the official python images, or a plain Debian with
# python3 and python3-venv. Every stage starts from it, so that a venv made in one stage runs in another.
ARG BASE_IMAGE=python:3.11-slim-bookworm


FROM ${BASE_IMAGE} AS build
# For a mirror, or for an index that offers torch's CPU builds. pip reads both from the environment. Said again in each
# stage that uses pip, for not every builder hands them on.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
# pip understands dependency groups since 25.1. It has a venv of its own and fills another: no image needs it.
RUN python3 -m venv /opt/pip \
 && /opt/pip/bin/pip install pip==26.3 \
 && python3 -m venv --without-pip /opt/venv \
 && mkdir /repository
ENV PIP_PYTHON=/opt/venv/bin/python
WORKDIR /build
COPY pyproject.toml requirements.lock ./


FROM build AS build-service
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# cpu: the small runtime. cuda (x86-64): CUDA and cuDNN come as wheels, in the versions that ONNX Runtime asks for, and
# the host gives the driver alone. requirements.lock leaves those wheels out, because torch's CUDA build pins its own.
ARG RUNTIME=cpu
# Left out: test suites (17 MB), and the runtime's second copy for C programs (29 MB), which Python never loads.
RUN case "$RUNTIME" in \
      cpu)  /opt/pip/bin/pip install --no-compile -c requirements.lock --group service-cpu ;; \
      cuda) /opt/pip/bin/pip install --no-compile -c requirements.lock --group service 'onnxruntime-gpu[cuda,cudnn]' ;; \
      *)    echo "RUNTIME is cpu or cuda, not '$RUNTIME'" >&2; exit 1 ;; \
    esac \
 && find /opt/venv \( -type d -name tests -o -name 'libonnxruntime.so*' \) -prune -exec rm -r {} +
COPY models /app/models
COPY service /app/service
# Bytecode is made here, since nobody can write it later. Unchecked: files of an image do not change under it.
# Readable by all, whatever the checkout's umask was.
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib /app \
 && chmod -R a+rX /app


FROM build AS build-training
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# Here pip makes the bytecode: it passes over what only a newer Python can compile, and torch has such a file.
RUN /opt/pip/bin/pip install -c requirements.lock --group training --group runtime-cpu \
 && /opt/pip/bin/pip install -c requirements.lock --group tables --no-deps \
 && find /opt/venv \( -type d -name tests -o -path '*/torch/test' -o -name 'libonnxruntime.so*' \) -prune -exec rm -r {} +
COPY models /app/models
COPY training /app/training
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /app \
 && chmod -R a+rX /app


FROM ${BASE_IMAGE} AS base
# HOME is /tmp, the one place that is writable under a read-only root: libraries keep their caches below it, whoever runs.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    ROWCAST_REPOSITORY=/repository
# The official python images have the standard library without its bytecode (0.3 s per process); Debian's has it.
RUN python3 -m compileall -q -x 'site-packages|/tests?/' "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
# No VOLUME: it would make this folder writable under a read-only root, and leave an unnamed volume behind every run.
COPY --from=build --chown=10001:10001 /repository /repository
WORKDIR /app
USER 10001:10001


FROM base AS training
COPY --from=build-training /opt/venv /opt/venv
COPY --from=build-training /app /app
ENTRYPOINT ["python", "-m", "training"]


FROM base AS service
# The last line lets NVIDIA's container runtime bring CUDA's driver in; without that runtime it says nothing.
ENV ROWCAST_HOST=0.0.0.0 \
    ROWCAST_PORT=8000 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-service /opt/venv /opt/venv
COPY --from=build-service /app /app
EXPOSE 8000
# Ready, not only live: what waits for a healthy container wants answers. The standard library alone (-I -S) takes 35 ms.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-ISc", "import http.client, os, sys; probe = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('ROWCAST_METRICS_PORT') or os.environ['ROWCAST_PORT']), timeout=2); probe.request('GET', '/health/ready'); sys.exit(probe.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "service"]
