# One file, three images:
#   docker build --target coordinator -t pfedbayespt-coordinator .   rounds, updates, versions; no torch, small
#   docker build --target inference   -t pfedbayespt-inference .     the same, and predictions
#   docker build --target site        -t pfedbayespt:site .          a site: `site run`, `site serve`
# All run as an unprivileged user and need nothing writable but /data.

FROM python:3.12-slim AS build
WORKDIR /src
COPY . .
RUN python -m pip wheel --no-deps --wheel-dir /wheels .
RUN python -m venv /opt/pfedbayespt
RUN /opt/pfedbayespt/bin/python -m pip install --no-cache-dir "$(ls /wheels/*.whl)[server,postgres,s3,telemetry]"

FROM build AS build-inference
RUN /opt/pfedbayespt/bin/python -m pip install --no-cache-dir "$(ls /wheels/*.whl)[inference]"

FROM build-inference AS build-site
RUN /opt/pfedbayespt/bin/python -m pip install --no-cache-dir "$(ls /wheels/*.whl)[client]"

FROM python:3.12-slim AS runtime
RUN useradd --system --uid 10001 --home-dir /data pfedbayespt && install -d -o 10001 -g 10001 /data
ENV PATH=/opt/pfedbayespt/bin:$PATH PYTHONUNBUFFERED=1 PFEDBAYESPT_DATA_DIR=/data
VOLUME /data
EXPOSE 8000
USER 10001
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
ENTRYPOINT ["pfedbayespt"]
CMD ["coordinator", "run", "--host", "0.0.0.0", "--port", "8000"]

FROM runtime AS coordinator
ENV PFEDBAYESPT_ROLES='["coordinator"]'
COPY --from=build /opt/pfedbayespt /opt/pfedbayespt

FROM runtime AS inference
ENV PFEDBAYESPT_ROLES='["coordinator", "inference"]'
COPY --from=build-inference /opt/pfedbayespt /opt/pfedbayespt

FROM runtime AS site
HEALTHCHECK NONE
CMD ["site", "--help"]
COPY --from=build-site /opt/pfedbayespt /opt/pfedbayespt
