#!/usr/bin/env bash
# Reads infra/compose.yaml as compose does: by `docker compose` where that is, else by podman-compose from a virtual
# environment in target/podman-compose. Nothing is started. tests/it/deployment.rs looks at what the file says.
set -euo pipefail
cd "$(dirname "$0")/.."

VERSION=1.5.0
venv=target/podman-compose
# The secrets are files that nobody has before the first start.
if docker compose version >/dev/null 2>&1; then
  docker compose -f infra/compose.yaml config --quiet
  echo "infra/compose.yaml: read by $(docker compose version | head -n 1)"
  exit
fi
if [ ! -e "$venv/podman-compose-$VERSION" ]; then
  if ! command -v python3 >/dev/null || ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    echo "NOT CHECKED: infra/compose.yaml (there is no docker compose, and podman-compose needs Python 3 with venv)" >&2
    exit 0
  fi
  echo "installing podman-compose $VERSION into $venv" >&2
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "podman-compose==$VERSION"
  touch "$venv/podman-compose-$VERSION"
fi
read=$("$venv/bin/podman-compose" -f infra/compose.yaml config 2>&1) || { echo "$read" >&2; exit 1; }
for service in migrate server worker control shard-1 shard-2 redis prometheus; do
  grep -qE "^  $service:" <<<"$read" || { echo "infra/compose.yaml: no service $service was read" >&2; exit 1; }
done
echo "infra/compose.yaml: read by podman-compose $VERSION"
