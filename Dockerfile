# syntax=docker/dockerfile:1
# A non-root image that works with a read-only root:
#   docker build -t iarproxy .
#   docker run -d -p 127.0.0.1:5000:5000 --read-only --tmpfs /tmp --cap-drop=all --security-opt no-new-privileges \
#     -v iarproxy:/var/lib/iarproxy iarproxy
# The store lies in a folder of its own below the volume: whoever owns the volume's root, the store is ours.

FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/iarproxy
COPY pyproject.toml README.md LICENSE ./
COPY iarproxy ./iarproxy
RUN /opt/iarproxy/bin/pip install --no-cache-dir --disable-pip-version-check . \
 && /opt/iarproxy/bin/python -m compileall -q /opt/iarproxy/lib

FROM python:3.13-slim
COPY --from=build /opt/iarproxy /opt/iarproxy
COPY config/container.toml /etc/iarproxy/iarproxy.toml
RUN install -d -o 65532 -g 65532 -m 0700 /var/lib/iarproxy
ENV PATH=/opt/iarproxy/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    RUNTIME_DIRECTORY=/tmp/iarproxy
USER 65532:65532
VOLUME /var/lib/iarproxy
EXPOSE 5000 5002
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["python", "-c", \
  "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5001/healthz', timeout=3)"]
ENTRYPOINT ["iarproxy"]
CMD ["serve"]
