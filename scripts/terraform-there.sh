#!/usr/bin/env bash
# Whether Terraform's checks can run here: there is a terraform, and it gets at the provider, from the registry or from a mirror
# (TF_PLUGIN_MIRROR=/path/to/mirror, or a CLI configuration of yours). Prints why not, and nothing when they can.
set -uo pipefail
cd "$(dirname "$0")/.."

command -v terraform >/dev/null || { echo "there is no terraform on the PATH"; exit; }
data="$PWD/target/terraform"
mkdir -p "$data"
if [ -n "${TF_PLUGIN_MIRROR:-}" ]; then
  printf 'provider_installation {\n  filesystem_mirror {\n    path = "%s"\n  }\n}\n' "$TF_PLUGIN_MIRROR" >"$data/mirror.tfrc"
  export TF_CLI_CONFIG_FILE="$data/mirror.tfrc"
fi
export CHECKPOINT_DISABLE=1 TF_IN_AUTOMATION=1 TF_DATA_DIR="$data/there"
# The smallest root. The provider is large, and comes over the network at most once.
timeout 180 terraform -chdir=terraform/inventory init -backend=false -input=false -lockfile=readonly >"$data/there.log" 2>&1 ||
  echo "terraform cannot get at its provider: see target/terraform/there.log, and TF_PLUGIN_MIRROR in terraform/README.md"
