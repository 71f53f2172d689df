# The image of `freehold serve` and `freehold worker`, and of every other command: one binary, the Terraform code, and
# what a C program needs to start. Nobody in it is root, nothing in it is written to.
#
#   docker build --tag freehold .                       compiled in here; the default
#   docker build --tag freehold --target prebuilt .     around target/dist/freehold, which somebody has built already
#   docker build --tag freehold-terraform --target with-terraform .     for a worker that provisions a cloud
#
# Where these registries are out of reach, or are not trusted, any image will do that has Rust and a C compiler, and any that
# has glibc, libgcc and the public certificate authorities (scripts/make-base-image.sh makes the second):
#   --build-arg BUILD_IMAGE=… --build-arg RUN_IMAGE=… --build-arg TERRAFORM_IMAGE=…
# The glibc of the second must not be older than that of the first.
# checkov:skip=CKV_DOCKER_7:the last FROM is a stage of this file, which has no tag
ARG BUILD_IMAGE=docker.io/library/rust:1.95-bookworm
ARG RUN_IMAGE=gcr.io/distroless/cc-debian12:nonroot
ARG TERRAFORM_IMAGE=docker.io/hashicorp/terraform:1.11.4

# What all of them have. /run/secrets is where settings that say file:/run/secrets/… look.
FROM ${RUN_IMAGE} AS base
COPY LICENSE NOTICE /usr/share/doc/freehold/
COPY terraform /usr/share/freehold/terraform
ENV FREEHOLD_HTTP_ADDR=0.0.0.0:8080 \
    FREEHOLD_METRICS_ADDR=0.0.0.0:9090
EXPOSE 8080 9090
# A number, so that a cluster can see that it is not root's.
USER 65532:65532
WORKDIR /
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/freehold", "health"]
# SIGTERM, which is what freehold waits for.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/freehold"]
CMD ["serve"]

FROM base AS prebuilt
COPY --chmod=755 target/dist/freehold /usr/local/bin/freehold

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# The dependencies first, around a program that does nothing: this layer is good until one of them changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it benches/bench benches/soak benches/chaos \
    && for main in src tests/it benches/bench benches/soak benches/chaos; do echo 'fn main() {}' >$main/main.rs; done \
    && touch src/lib.rs \
    && cargo build --locked --profile dist \
    && rm -r src
COPY assets assets
COPY templates templates
COPY tests/idp tests/idp
COPY control-plane-migrations control-plane-migrations
COPY shard-migrations shard-migrations
COPY tenant-migrations tenant-migrations
COPY plans.toml ./
COPY src src
# The sources are older than what was compiled of the empty program; cargo goes by that.
RUN touch src/lib.rs src/main.rs \
    && cargo build --locked --profile dist \
    && target/dist/freehold --version

FROM base AS app
COPY --from=build --chmod=755 /src/target/dist/freehold /usr/local/bin/freehold

FROM ${TERRAFORM_IMAGE} AS terraform

# Its provider comes from the registry, or from a folder that the settings name: it is ten times as large as all of this.
# The folder of `work` in the settings has to be a volume. It is the process's own: a volume made there belongs to it too.
FROM ${BUILD_IMAGE} AS staged
RUN mkdir -p /staged/terraform

FROM app AS with-terraform
COPY --from=staged --chown=65532:65532 /staged /var/lib/freehold
COPY --from=terraform --chmod=755 /bin/terraform /usr/local/bin/terraform

# What is built when nothing else is asked for.
FROM app
