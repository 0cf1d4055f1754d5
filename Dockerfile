# syntax=docker/dockerfile:1

# One image with both binaries: `api`, which is what it runs by itself, and `worker`.
# The target `receiver` is an image of its own: the demo receiver, for development only.

FROM rust:1.95-slim-bookworm AS builder
# The slim image has gcc and the C library's headers, which is all that the C sources of mimalloc and ring need.
WORKDIR /src
# The queries are checked against .sqlx: no database is needed to build.
ENV SQLX_OFFLINE=true
COPY . .
# The caches outlive a build, so what was compiled is copied out of them. `core` embeds the migrations and does not
# notice a new file among them, so it is made to look changed.
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
# The certificates by which receivers are trusted: without any, the worker does not start.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=builder /out/api /out/worker /usr/local/bin/
# Nobody in particular. By number, so that an orchestrator can see that it is not root.
USER 10001:10001
# Loopback, the default outside a container, would reach nobody.
ENV POSTRIDER_API_LISTEN=0.0.0.0:8080 \
    POSTRIDER_WORKER_LISTEN=0.0.0.0:8081
EXPOSE 8080 8081
CMD ["api"]
