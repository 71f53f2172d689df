#!/usr/bin/env bash
# Checks the Terraform code without a cloud and without credentials: format, validity, and the test suites with a mock of
# the provider. Needs `terraform`; the provider comes from a mirror on this disk (scripts/plugin-mirror.sh), or from the registry.
set -euo pipefail
cd "$(dirname "$0")/.."

# Folders at a time: each takes about 0.7 GB.
AT_ONCE=2

if ! command -v terraform >/dev/null; then
  echo "terraform is not on the PATH: https://developer.hashicorp.com/terraform/install" >&2
  exit 2
fi
source scripts/terraform-config.sh

# One folder, for the call below. What it says stays together.
if [ $# -gt 0 ]; then
  export TF_DATA_DIR="$terraform_data/${1//\//-}"
  if terraform -chdir="terraform/$1" validate -no-color >"$TF_DATA_DIR.log" 2>&1 &&
    terraform -chdir="terraform/$1" test -no-color >>"$TF_DATA_DIR.log" 2>&1; then
    echo "terraform/$1: $(grep '^Success! [0-9]' "$TF_DATA_DIR.log")"
    exit
  fi
  cat "$TF_DATA_DIR.log" >&2
  echo "terraform/$1: FAILED" >&2
  exit 1
fi

terraform fmt -check -recursive -diff terraform
folders=$(cd terraform && printf '%s\n' modules/* platform shard tenant inventory)
for folder in $folders; do
  export TF_DATA_DIR="$terraform_data/${folder//\//-}"
  # Roots have a lock file with the hashes of every platform, and it is the truth; a module has none.
  lock=-lockfile=readonly
  case $folder in modules/*) lock= ;; esac
  terraform -chdir="terraform/$folder" init -backend=false -input=false $lock >"$TF_DATA_DIR.log" 2>&1 ||
    { cat "$TF_DATA_DIR.log" >&2; exit 1; }
done
xargs -P "$AT_ONCE" -n 1 scripts/check-terraform.sh <<<"$folders"
