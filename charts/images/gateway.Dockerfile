# The gateway's image: dependencies by hash, no compiler and no root at run time.
FROM python:3.11-slim AS build
WORKDIR /app
COPY requirements/bootstrap.lock requirements/run.lock requirements/
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --require-hashes -r requirements/bootstrap.lock \
    && /venv/bin/uv pip install --python /venv/bin/python --no-cache --require-hashes -r requirements/run.lock
COPY pyproject.toml README.md LICENSE callgate.yaml ./
COPY gateway gateway
COPY guardrails guardrails
COPY rag rag
COPY evals evals
COPY serving serving
RUN /venv/bin/uv pip install --python /venv/bin/python --no-cache --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin callgate
COPY --from=build /venv /venv
COPY --from=build /app/guardrails/policies /app/guardrails/policies
COPY --from=build /app/rag/knowledge /app/rag/knowledge
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /app
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health/live', timeout=2)"]
ENTRYPOINT ["callgate"]
CMD ["serve", "--config", "/etc/callgate/callgate.yaml"]
