# The service's images, and the one that trains: cpu (what a plain build gives), gpu, training.
# No torch in cpu and gpu; every dependency is installed from deploy/locks by its hash.
#   docker build -t fieldmark .                                 the service on the CPU
#   docker build -t fieldmark:gpu --target gpu .                the service on NVIDIA GPUs
#   docker build -t fieldmark:training --target training .      fieldmark-train
ARG PYTHON_VERSION=3.11
ARG VERSION=
ARG REVISION=

# --- The wheel. The version is git's tag, and no .git is sent here: without VERSION it is pyproject's fallback.
FROM python:${PYTHON_VERSION}-slim-bookworm AS wheel
ARG VERSION
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
COPY deploy/locks/build.txt deploy/locks/
RUN pip install --quiet --only-binary=:all: --require-hashes --requirement deploy/locks/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY model model
COPY service service
COPY training training
RUN SETUPTOOLS_SCM_PRETEND_VERSION=${VERSION} pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheel .

# --- The environments, one a target; without pip, which nothing running needs.
FROM python:${PYTHON_VERSION}-slim-bookworm AS environment
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/fieldmark

FROM environment AS environment-cpu
COPY deploy/locks/cpu.txt /locks/
RUN pip --python /opt/fieldmark/bin/python install --quiet --only-binary=:all: --require-hashes --requirement /locks/cpu.txt
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip --python /opt/fieldmark/bin/python install --quiet --no-deps --no-index /wheel/*.whl

FROM environment AS environment-gpu
COPY deploy/locks/gpu.txt /locks/
RUN pip --python /opt/fieldmark/bin/python install --quiet --only-binary=:all: --require-hashes --requirement /locks/gpu.txt
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip --python /opt/fieldmark/bin/python install --quiet --no-deps --no-index /wheel/*.whl

FROM environment AS environment-training
COPY deploy/locks/training.txt /locks/
RUN pip --python /opt/fieldmark/bin/python install --quiet --only-binary=:all: --require-hashes --requirement /locks/training.txt
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip --python /opt/fieldmark/bin/python install --quiet --no-deps --no-index /wheel/*.whl

# --- What every target has: an unprivileged user and the folder of models, made and owned by that user, because a
# volume takes the owner and the content of the folder it is first mounted on.
FROM python:${PYTHON_VERSION}-slim-bookworm AS user
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="fieldmark" \
      org.opencontainers.image.description="Names the fine-grained class of an image and shows the field marks it used" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 fieldmark \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin fieldmark \
 && install -d -o 10001 -g 10001 /models /runs
ENV PATH=/opt/fieldmark/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1
WORKDIR /tmp

FROM user AS service
COPY --chown=10001:10001 service/bundled /models
COPY deploy/healthcheck.py /opt/healthcheck.py
ENV FIELDMARK_MODEL=/models FIELDMARK_HOST=0.0.0.0 FIELDMARK_PORT=8000
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["python", "-I", "-S", "/opt/healthcheck.py"]
USER 10001:10001
ENTRYPOINT ["fieldmark"]
CMD ["serve"]

# --- The targets.
FROM user AS training
ARG REVISION
COPY --from=environment-training /opt/fieldmark /opt/fieldmark
# Caches go where a read-only root file system still lets one write.
ENV FIELDMARK_COMMIT=${REVISION} FIELDMARK_CACHE=/runs/.cache MPLCONFIGDIR=/tmp/matplotlib TORCH_HOME=/tmp/torch TORCHINDUCTOR_CACHE_DIR=/tmp/inductor \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /runs
STOPSIGNAL SIGINT
USER 10001:10001
ENTRYPOINT ["fieldmark-train"]
CMD ["--help"]

FROM service AS gpu
COPY --from=environment-gpu /opt/fieldmark /opt/fieldmark
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM service AS cpu
COPY --from=environment-cpu /opt/fieldmark /opt/fieldmark
