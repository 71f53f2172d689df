#!/usr/bin/env bash
# Looks through the Terraform code and the Dockerfiles with checkov, from a virtual environment in target/checkov. What is
# accepted says why, where it is: `#checkov:skip=ID:reason`.
set -euo pipefail
cd "$(dirname "$0")/.."

VERSION=3.3.30
venv=target/checkov
if [ ! -e "$venv/checkov-$VERSION" ]; then
  if ! command -v python3 >/dev/null || ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    echo "NOT CHECKED: terraform/ by checkov (it needs Python 3 with venv; Debian, Ubuntu: apt-get install python3-venv)" >&2
    exit 0
  fi
  echo "installing checkov $VERSION into $venv" >&2
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "checkov==$VERSION"
  touch "$venv/checkov-$VERSION"
fi

# Nothing is sent anywhere and nothing fetched: --skip-download leaves out what a platform would add.
"$venv/bin/checkov" --directory . --skip-path target --skip-path tests --skip-path src \
  --framework terraform dockerfile --skip-download --quiet --compact "$@"
