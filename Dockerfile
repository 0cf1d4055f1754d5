# syntax=docker/dockerfile:1

# One image with both programs: `api`, which it runs by default, and `worker`. The target `receiver` is an image of its
# own with the demo receiver, for development only.

# What the dashboard's pages load, exactly as the lock file names it. The release build embeds it.
FROM node:22-bookworm-slim AS dashboard
WORKDIR /ui
COPY api/ui/package.json api/ui/package-lock.json ./
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund

FROM rust:1.95-slim-bookworm AS builder
# The slim image has gcc and the headers of the C library, which the C sources of mimalloc and ring need to compile.
WORKDIR /src
# The queries are checked against .sqlx, so building needs no database.
ENV SQLX_OFFLINE=true
COPY . .
COPY --from=dashboard /ui/node_modules api/ui/node_modules
# The cache mounts are not part of the image, so the programs are copied out of them. `core` embeds the migrations, and
# cargo does not notice a new file among them, so `core` is made to look changed.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    touch core/src/lib.rs \
    && cargo build --release --locked --bin api --bin worker --bin dev \
    && mkdir /out \
    && cp target/release/api target/release/worker target/release/dev /out/

FROM debian:bookworm-slim AS receiver
COPY --from=builder /out/dev /usr/local/bin/
USER 10001:10001
EXPOSE 8090
CMD ["dev", "receiver", "0.0.0.0:8090"]

FROM debian:bookworm-slim AS postrider
# The certificates of the authorities by which receivers are trusted. Without any, the worker does not start.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=builder /out/api /out/worker /usr/local/bin/
# A user without rights, given by number, so that an orchestrator can see that it is not root.
USER 10001:10001
# The default address is loopback, which nobody could reach from outside the container.
ENV POSTRIDER_API_LISTEN=0.0.0.0:8080 \
    POSTRIDER_WORKER_LISTEN=0.0.0.0:8081
EXPOSE 8080 8081
CMD ["api"]
