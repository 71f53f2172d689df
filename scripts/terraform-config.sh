# Read by the scripts that run Terraform (`source`), from the project's folder: where its provider comes from, and no questions asked.
# shellcheck shell=bash
terraform_data="$PWD/target/terraform"
mkdir -p "$terraform_data"
terraform_mirror=$(scripts/plugin-mirror.sh)
if [ -n "$terraform_mirror" ]; then
  printf 'provider_installation {\n  filesystem_mirror {\n    path = "%s"\n  }\n}\n' "$terraform_mirror" >"$terraform_data/mirror.tfrc"
  export TF_CLI_CONFIG_FILE="$terraform_data/mirror.tfrc"
else
  # One that is named and not there stops every command.
  if [ ! -e "${TF_CLI_CONFIG_FILE:-/}" ]; then unset TF_CLI_CONFIG_FILE; fi
  # Over the network once, and not for each folder: 0.7 GB.
  mkdir -p "$terraform_data/providers"
  export TF_PLUGIN_CACHE_DIR="$terraform_data/providers" TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE=1
fi
export CHECKPOINT_DISABLE=1 TF_IN_AUTOMATION=1
