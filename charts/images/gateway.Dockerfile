# syntax=docker/dockerfile:1
# The gateway's image. Build from the repository's root:  docker build -f charts/images/gateway.Dockerfile -t callgate:0.1.0 .
# Everything installed is named with its hash in requirements/*.lock. For a release give the base by digest: --build-arg PYTHON=python@sha256:...
# Callers bring their own models: the demo model and Phoenix are not in it.
ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS build
WORKDIR /src
COPY requirements/bootstrap.lock requirements/run.lock requirements/
RUN python -m venv /opt/installer \
 && /opt/installer/bin/pip install --no-cache-dir --require-hashes -r requirements/bootstrap.lock \
 && python -m venv --without-pip /opt/callgate \
 && /opt/installer/bin/uv pip install --python /opt/callgate/bin/python --no-cache --compile-bytecode \
    --only-binary :all: --require-hashes -r requirements/run.lock
COPY pyproject.toml README.md LICENSE CHANGELOG.md callgate.yaml ./
COPY gateway gateway
COPY guardrails guardrails
COPY rag rag
COPY evals evals
COPY serving serving
# Fixed paths for settings files: where site-packages lies is nobody's business.
RUN /opt/installer/bin/uv pip install --python /opt/callgate/bin/python --no-cache --compile-bytecode \
    --no-deps --no-build-isolation . \
 && ln -s lib/python3.11/site-packages/guardrails/policies /opt/callgate/policies \
 && ln -s lib/python3.11/site-packages/rag/knowledge /opt/callgate/knowledge

FROM ${PYTHON}
# LightGBM's wheel needs the system's OpenMP. A security fix of it must not wait for a new pin here.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/callgate
COPY --from=build /opt/callgate /opt/callgate
ENV PATH=/opt/callgate/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/var/lib/callgate \
    CALLGATE_STATE_DIR=/var/lib/callgate \
    ANONYMIZED_TELEMETRY=False \
    HF_HUB_OFFLINE=1 \
    LITELLM_LOCAL_MODEL_COST_MAP=True \
    NEMO_GUARDRAILS_NO_USAGE_STATS=1
USER 10001:10001
WORKDIR /var/lib/callgate
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health/live', timeout=2)"]
CMD ["callgate", "serve", "--config", "/etc/callgate/callgate.yaml"]
