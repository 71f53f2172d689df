#!/usr/bin/env bash
# Prints the folder that mirrors Terraform's AWS provider, if there is one on this disk: TF_PLUGIN_MIRROR where that is set, else
# the first of the places where such folders are kept that has the version of the lock file. Prints nothing when there is
# none: the registry is asked then.
set -uo pipefail
cd "$(dirname "$0")/.."

if [ -n "${TF_PLUGIN_MIRROR:-}" ]; then
  echo "$TF_PLUGIN_MIRROR"
  exit
fi
version=$(sed -n 's/^ *version *= *"\(.*\)"/\1/p' terraform/inventory/.terraform.lock.hcl)
found=$(find /opt /usr/share /usr/local/share "${HOME:-/nonexistent}/.terraform.d" -maxdepth 9 \
  -path "*/registry.terraform.io/hashicorp/aws/*$version*" -name 'terraform-provider-aws*' -print -quit 2>/dev/null)
if [ -n "$found" ]; then echo "${found%%/registry.terraform.io/*}"; fi
