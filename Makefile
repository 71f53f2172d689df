# Every debug build has the same features, so that `make dev`, `make test` and `cargo test` share what they compiled.
# `testkit` adds helpers for tests and, for `freehold dev`, the stand-in for Stripe; what ships is built without it (cargo
# build --profile dist).
DEBUG_FLAGS := --locked --features testkit

# Terraform's provider, where a folder on this disk mirrors it; without one the registry is asked.
MIRROR := export TF_PLUGIN_MIRROR="$$(scripts/plugin-mirror.sh)";

# More for the program behind a target: `make dev ARGS=--reset`, `make bench ARGS=--list`
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help deps dev test lint bench soak chaos openapi terraform image clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Install PostgreSQL, Redis, a C compiler and Node.js if they are missing (Debian, Ubuntu)
	@scripts/install-deps.sh

# `exec` leaves no shell between make and freehold: a signal to make reaches it, and it stops all it started.
dev: deps ## Build and run Freehold with servers of its own (ARGS="--reset" starts over)
	@cargo build $(DEBUG_FLAGS)
	@$(MIRROR) exec target/debug/freehold dev $(ARGS)

# Terraform is in few systems' package sources, and its provider in none. Without them its checks are left out, and the last
# line says so.
test: ## Check the format, lint, and run every test on real servers
	@scripts/install-deps.sh --test
	cargo fmt --all -- --check
	cargo clippy --all-targets $(DEBUG_FLAGS) -- -D warnings
	[ -z "$$(scripts/terraform-there.sh)" ] || export FREEHOLD_TEST_TERRAFORM=none; cargo test $(DEBUG_FLAGS)
	@scripts/check-prometheus.sh
	@why="$$(scripts/terraform-there.sh)"; if [ -z "$$why" ]; then scripts/check-terraform.sh; \
	  else echo "NOT CHECKED: terraform/ and its driver ($$why)" >&2; fi

lint: deps ## Check the format and lint, without tests; the deployment files as well
	cargo fmt --all -- --check
	cargo clippy --all-targets $(DEBUG_FLAGS) -- -D warnings
	@scripts/check-prometheus.sh
	@scripts/check-compose.sh
	@scripts/check-checkov.sh

bench: ## Measure what Freehold costs (release build, real servers, fsync on)
	@scripts/install-deps.sh --bench
	cargo bench --locked --features testkit --bench bench -- $(ARGS)

soak: deps ## Run the long mixed-load test at full size (release build)
	cargo bench --locked --features testkit --bench soak -- $(ARGS)

chaos: deps ## Break what Freehold depends on, under load (release build, under 15 minutes)
	cargo bench --locked --features testkit --bench chaos -- $(ARGS)

openapi: deps ## Write openapi/v1.json from the code
	@cargo build $(DEBUG_FLAGS)
	@mkdir -p openapi
	@target/debug/freehold openapi > openapi/v1.json.new && mv openapi/v1.json.new openapi/v1.json

terraform: ## Check the Terraform code (needs terraform; no cloud, no credentials)
	@scripts/check-terraform.sh

image: ## Build the container image and see it run, read-only and as nobody (ARGS=--prebuilt: around target/dist/freehold)
	@scripts/check-image.sh $(ARGS)

clean: ## Remove what was built (the state of `make dev` in .freehold/ stays)
	cargo clean
