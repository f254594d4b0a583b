# The image of dcalqr: two stages, no build tools in the second one, no root. `make image-test` builds and runs it.
#
# Debian's own Python, so that the security updates of Debian reach it: build anew for them. A digest pins the base
# further: --build-arg BASE=debian:12.12-slim@sha256:...
ARG BASE=debian:12.12-slim

FROM ${BASE} AS build
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 python3-venv ca-certificates
# For a site whose network has authorities of its own; nothing of it stays.
ARG PIP_CERT=/etc/ssl/certs/ca-certificates.crt
COPY requirements.txt /build/
# Every dependency by version and hash, as wheels only: nothing is compiled here.
RUN python3 -m venv /opt/dcalqr \
 && /opt/dcalqr/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r /build/requirements.txt
COPY dist/dcalqr-*.whl /build/
# OpenSearch's client brings gRPC (30 MB) for a way of asking that is not ours, and does not import it otherwise.
RUN /opt/dcalqr/bin/pip install --no-cache-dir --no-deps --no-index /build/dcalqr-*.whl \
 && /opt/dcalqr/bin/pip uninstall -y grpcio opensearch-protobufs protobuf \
 && /opt/dcalqr/bin/pip uninstall -y pip setuptools \
 && rm -f /opt/dcalqr/bin/activate* /opt/dcalqr/bin/Activate.ps1

FROM ${BASE}
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 ca-certificates \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
# The number is the owner of the files that are copied: another one by --user or `user:`, no name is needed for it.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/dcalqr --shell /usr/sbin/nologin dcalqr \
 && install -d -o dcalqr -g dcalqr -m 0750 /var/lib/dcalqr
COPY --from=build /opt/dcalqr /opt/dcalqr
ENV PATH=/opt/dcalqr/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 STATE_DIRECTORY=/var/lib/dcalqr
USER 10001:10001
WORKDIR /var/lib/dcalqr
VOLUME /var/lib/dcalqr
# TERM drains. Give it more than daemon.drainseconds: docker stop --time 120, or stop_grace_period.
STOPSIGNAL SIGTERM
# 69 while it starts, 1 when it is not well: a hold, no Kafka, no credential.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 \
  CMD ["dcalqr", "status", "--config", "/etc/dcalqr/dcalqr.toml"]
ENTRYPOINT ["dcalqr"]
CMD ["run", "--config", "/etc/dcalqr/dcalqr.toml"]
