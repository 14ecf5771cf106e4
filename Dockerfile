# The image of every pod: Ray, raymoe and what they need, in one environment that is first on the path.
#
#     make image                                   for CPUs, with docker, podman or buildah
#     make image DEVICE=cuda IMAGE=REGISTRY/raymoe:0.1.0-cuda
#
# BASE is any Debian or Ubuntu with Python 3.11.5 or newer and venv. Packages come from pip's usual index; PIP_INDEX_URL,
# PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS and PIP_NO_INDEX say otherwise, as they do for pip. Which build of torch
# an index has decides whether the image can use GPUs: the build stops where that is not DEVICE.
ARG BASE=python:3.11-slim

FROM ${BASE} AS packages
ARG DEVICE=cpu
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_NO_INDEX
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY requirements.lock ./
RUN python3 -m venv /tools && /tools/bin/pip install --constraint requirements.lock hatchling
COPY pyproject.toml README.md LICENSE ./
COPY moe moe
COPY actors actors
COPY cluster cluster
COPY pipelines pipelines
RUN /tools/bin/python -m hatchling build --target wheel
# What only compilers, Java and tests need is left out; compiled modules stay, because pods start sooner with them.
# The lock pins every package for CPUs; those that a build of torch for GPUs adds, torch pins itself.
RUN python3 -m venv /opt/raymoe \
 && /opt/raymoe/bin/pip install --only-binary=:all: --constraint requirements.lock dist/*.whl \
 && /opt/raymoe/bin/pip uninstall --yes pip setuptools \
 && cd /opt/raymoe/lib/python3.11/site-packages \
 && rm -rf torch/test torch/include torch/bin/protoc* ray/jars pyarrow/include */tests */*/tests \
 && /opt/raymoe/bin/python -c "import torch; found = 'cuda' if torch.version.cuda else 'cpu'; \
assert found == '${DEVICE}', f'this torch is for {found}: give an index with one for ${DEVICE} (PIP_INDEX_URL)'"

FROM ${BASE}
ARG REVISION=unknown
LABEL org.opencontainers.image.title=raymoe \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.revision=${REVISION}
# KubeRay asks pods of a RayService for their health by wget, and submits jobs by python and ray.
RUN command -v wget > /dev/null \
 || (apt-get update && apt-get install --yes --no-install-recommends wget && rm -rf /var/lib/apt/lists/*)
RUN useradd --uid 1000 --user-group --create-home ray \
 && echo 'PATH="/opt/raymoe/bin:$PATH"' > /etc/profile.d/raymoe.sh
COPY --from=packages /opt/raymoe /opt/raymoe
ENV PATH=/opt/raymoe/bin:$PATH PYTHONUNBUFFERED=1 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /home/ray
CMD ["raymoe", "--help"]
