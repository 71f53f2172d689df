#!/usr/bin/env bash
# Checks the Terraform code without a cloud and without credentials: format, validity, and the test suites with a mock of
# the provider. Needs `terraform`; the provider comes from a mirror on this disk (scripts/plugin-mirror.sh), or from the registry.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v terraform >/dev/null; then
  echo "terraform is not on the PATH: https://developer.hashicorp.com/terraform/install" >&2
  exit 2
fi
source scripts/terraform-config.sh
cd terraform

terraform fmt -check -recursive -diff
for folder in modules/* platform shard tenant inventory; do
  echo "== $folder"
  export TF_DATA_DIR="$terraform_data/${folder//\//-}"
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
