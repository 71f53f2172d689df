#!/usr/bin/env bash
# Checks the Terraform code without a cloud and without credentials: format, validity, and the test suites with a mock of
# the provider. Needs `terraform`; the provider comes from the registry, or from a folder with a mirror of it:
#   TF_PLUGIN_MIRROR=/path/to/mirror scripts/check-terraform.sh
set -euo pipefail
cd "$(dirname "$0")/../terraform"

if ! command -v terraform >/dev/null; then
  echo "terraform is not on the PATH: https://developer.hashicorp.com/terraform/install" >&2
  exit 2
fi
data="$PWD/../target/terraform"
mkdir -p "$data"
if [ -n "${TF_PLUGIN_MIRROR:-}" ]; then
  printf 'provider_installation {\n  filesystem_mirror {\n    path = "%s"\n  }\n}\n' "$TF_PLUGIN_MIRROR" >"$data/mirror.tfrc"
  export TF_CLI_CONFIG_FILE="$data/mirror.tfrc"
fi
export CHECKPOINT_DISABLE=1 TF_IN_AUTOMATION=1

terraform fmt -check -recursive -diff
for folder in modules/* platform shard tenant inventory; do
  echo "== $folder"
  export TF_DATA_DIR="$data/${folder//\//-}"
  # Roots have a lock file with the hashes of every platform, and it is the truth; a module has none.
  lock=-lockfile=readonly
  case $folder in modules/*) lock= ;; esac
  (
    cd "$folder"
    terraform init -backend=false -input=false $lock >"$TF_DATA_DIR.log" 2>&1 || { cat "$TF_DATA_DIR.log" >&2; exit 1; }
    terraform validate -no-color
    terraform test -no-color
  )
done
