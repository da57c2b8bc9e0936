# The image of amn-ray: every node of a cluster runs it (deploy/), and a single machine can.
#
# Change before use: the name. Build and try it (BuildKit, which Docker 23 and newer use):
#   docker build -t registry.example.com/amn-ray:0.2.0 --build-arg REVISION="$(git rev-parse HEAD)" .
#   docker run --rm --shm-size 2g registry.example.com/amn-ray:0.2.0 amn-ray pipeline           # drawn images
#   docker run --rm --shm-size 8g --gpus all -v /data:/data:ro registry.example.com/amn-ray:0.2.0 \
#       amn-ray pipeline dataset=coco14 dataset.root=/data/coco store=s3://…
#
# BASE: any Debian or Ubuntu with Python 3.11 or newer, its own or apt's. The default also runs on GPUs: torch's wheels
# contain CUDA's libraries, and the host only needs the driver and NVIDIA's container toolkit. With a CUDA base:
#   docker build --build-arg BASE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 …

ARG BASE=python:3.11-slim-bookworm

# The packages. Only this stage has a compiler: pydensecrf is the one package without a wheel.
FROM ${BASE} AS build
ARG UV_VERSION=0.13.9
ENV DEBIAN_FRONTEND=noninteractive
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# apt's Python is installed only if the base has none: on python:* images it would be a second one, of another version.
# Versions are not pinned, since distributions remove old ones from their mirrors and the build would fail.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ \
 && if ! command -v python3; then apt-get install -y --no-install-recommends python3 python3-dev python3-venv; fi \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else f"BASE has Python {sys.version}: 3.11 is needed")'
# uv stays outside the environment that is copied.
RUN python3 -m venv /opt/uv \
 && /opt/uv/bin/python -m pip install --no-cache-dir "uv==${UV_VERSION}" \
 && python3 -m venv --without-pip /opt/amn
COPY requirements.txt /tmp/requirements.txt
# Compiled here, since the user of the image cannot write bytecode: Ray's processes start three times as fast.
RUN --mount=type=cache,target=/var/cache/uv \
    UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy /opt/uv/bin/uv pip install --compile-bytecode --python /opt/amn/bin/python \
        -r /tmp/requirements.txt

# The same BASE, so that the environment finds its interpreter.
FROM ${BASE} AS run
ENV DEBIAN_FRONTEND=noninteractive
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# rsync and ssh: `ray up` copies files into the container, and the head reaches the workers from inside it.
# User 1000 is "ubuntu" in Ubuntu's images.
# Login shells (`ray up`, older KubeRay) set PATH anew from /etc/profile: hence profile.d.
# hadolint ignore=DL3008,SC2016
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates openssh-client rsync \
 && if ! command -v python3; then apt-get install -y --no-install-recommends python3; fi \
 && rm -rf /var/lib/apt/lists/* \
 && if getent passwd 1000; then userdel "$(getent passwd 1000 | cut -d: -f1)" && rm -rf /home/ubuntu; fi \
 && if ! getent group 1000; then groupadd --gid 1000 amn; fi \
 && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash amn \
 && printf 'export PATH=/opt/amn/bin:$PATH\n' > /etc/profile.d/amn.sh
# Over 6 GB, but a layer of its own that changes only with requirements.txt: a new version of the code is a small push and pull.
COPY --from=build /opt/amn /opt/amn
WORKDIR /app
COPY pyproject.toml setup.py README.md LICENSE ./
COPY amn_ray amn_ray
COPY jobs jobs
COPY conf conf
# outputs/ is the default store, for a first try: it is lost with the container.
RUN --mount=type=bind,from=build,source=/opt/uv,target=/opt/uv \
    /opt/uv/bin/uv pip install --no-cache --python /opt/amn/bin/python --no-deps --no-build-isolation --editable /app \
 && /opt/amn/bin/python -m compileall -q amn_ray conf jobs \
 && install -d -o 1000 -g 1000 outputs

# HOME: `ray up` reads it from the image to place files. MALLOC_*, RAY_idle_*, RAY_num_*: as amn_ray.platform.cluster does for a local Ray, whose
# processes inherit it; on a cluster others start them. MLFLOW_*: artifacts pass through the tracking server, which may
# otherwise redirect nodes to an S3 that they do not reach. NVIDIA_*: the driver libraries that are needed.
ENV PATH=/opt/amn/bin:$PATH \
    HOME=/home/amn \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    MLFLOW_DISABLE_TELEMETRY=true \
    MALLOC_MMAP_THRESHOLD_=4294967296 \
    MALLOC_TRIM_THRESHOLD_=17179869184 \
    RAY_idle_worker_killing_time_threshold_ms=60000 \
    RAY_num_workers_soft_limit=32 \
    MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD=false \
    MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD=false \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# As a number, for Kubernetes' runAsNonRoot.
USER 1000:1000
# The entry point of CUDA bases prints a banner before all output.
ENTRYPOINT []
ARG VERSION=0.2.0
ARG REVISION=unknown
# The git_commit of manifests and MLflow: the image has no .git.
ENV AMN_GIT_COMMIT=${REVISION}
LABEL org.opencontainers.image.title="amn-ray" \
      org.opencontainers.image.description="Weakly supervised semantic segmentation with AMN on Ray" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
CMD ["amn-ray", "--help"]
