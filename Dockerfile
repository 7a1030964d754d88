# The server in a container. Targets: `cpu` and `gpu`. No torch in either.
#
#   docker build --target cpu -t segue:cpu .
#   docker build --target gpu -t segue:gpu --build-arg BASE_IMAGE=python:3.12-slim-bookworm .
#   docker run --rm -p 127.0.0.1:50051:50051 -v "$PWD/models:/models:ro" -v segue-state:/state segue:cpu
#   docker run --rm -p 127.0.0.1:50051:50051 -v "$PWD/models:/models:ro" -v segue-state:/state --gpus all segue:gpu
#
# The volume holds the key file and the sessions. docs/container.md says more. Nothing else is written: it also runs with
# --read-only, --cap-drop all and any --user.
#
# BASE_IMAGE may be any image with Python 3.11 or newer, its venv module and pip. The secrets `pipconf` and `ca` are
# optional: for hosts that reach their package index through a proxy with its own certificate.
ARG BASE_IMAGE=python:3.12-slim-bookworm

# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS build
WORKDIR /source
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/segue
COPY constraints.txt constraints-gpu.txt ./
RUN --mount=type=secret,id=pipconf,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca.crt \
    /opt/build/bin/pip install --no-cache-dir --constraint constraints.txt hatchling
COPY pyproject.toml README.md LICENSE ./
COPY training training
COPY export export
COPY server server
COPY protos protos
COPY client client
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM build AS build-cpu
RUN --mount=type=secret,id=pipconf,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca.crt \
    /opt/build/bin/pip --python /opt/segue/bin/python3 install --no-cache-dir --constraint constraints.txt \
        "segue[server] @ file://$(echo /wheels/segue-*.whl)" \
    && rm -r /opt/segue/lib/python3.*/site-packages/onnx/backend/test

# ONNX Runtime loads cuFFT for Fourier transforms alone, which no model has; nvJitLink comes with it.
FROM build AS build-gpu
RUN --mount=type=secret,id=pipconf,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca.crt \
    /opt/build/bin/pip --python /opt/segue/bin/python3 install --no-cache-dir --constraint constraints-gpu.txt \
        "segue[server-gpu] @ file://$(echo /wheels/segue-*.whl)" \
    && /opt/build/bin/pip --python /opt/segue/bin/python3 uninstall --yes nvidia-cufft nvidia-nvjitlink \
    && rm -r /opt/segue/lib/python3.*/site-packages/onnx/backend/test

# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS runtime
# A new volume takes over owner and mode. Open like /tmp, because platforms and `--user` choose any uid and group.
RUN install --directory --owner=65534 --group=65534 --mode=1777 /state
ENV PATH=/opt/segue/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    SEGUE_STATE=/state
VOLUME /state
USER 65534:65534
EXPOSE 50051
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python3", "-m", "segue_server.health_check", "127.0.0.1:50051"]
# `docker stop` kills after 10 seconds; with 5 seconds of grace every stream has its ticket by then.
ENTRYPOINT ["segue", "serve", "/models", "--host", "0.0.0.0", "--insecure", "--drain-grace", "5"]

FROM runtime AS gpu
COPY --from=build-gpu /opt/segue /opt/segue
CMD ["--device", "cuda"]

FROM runtime AS cpu
COPY --from=build-cpu /opt/segue /opt/segue
CMD ["--device", "cpu"]
