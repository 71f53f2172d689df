#!/usr/bin/env bash
# Whether Terraform's checks can run here: there is a terraform, and it gets at the provider, from a mirror on this disk
# (scripts/plugin-mirror.sh) or from the registry. Prints why not, and nothing when they can.
set -uo pipefail
cd "$(dirname "$0")/.."

command -v terraform >/dev/null || { echo "there is no terraform on the PATH"; exit; }
source scripts/terraform-config.sh
export TF_DATA_DIR="$terraform_data/there"
# The smallest root. The provider is large, and comes over the network at most once.
timeout 180 terraform -chdir=terraform/inventory init -backend=false -input=false -lockfile=readonly >"$terraform_data/there.log" 2>&1 ||
  echo "terraform cannot get at its provider: see target/terraform/there.log, and TF_PLUGIN_MIRROR in terraform/README.md"
