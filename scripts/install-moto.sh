#!/usr/bin/env bash
# Installs moto, a stand-in for AWS on this machine, into target/moto/venv: for the tests of Terraform and for
# `freehold dev --with-cloud`. From PyPI; nothing outside target/ is touched. Quiet when it is there already.
set -euo pipefail
cd "$(dirname "$0")/.."

VERSION=5.2.1
venv=target/moto/venv
if [ -e "$venv/moto-$VERSION" ]; then exit 0; fi

if ! command -v python3 >/dev/null || ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
  echo "moto needs Python 3 with venv (Debian, Ubuntu: apt-get install python3-venv)" >&2
  exit 2
fi
mkdir -p target/moto
# Two tests may come at once.
exec 9>target/moto/lock
if command -v flock >/dev/null; then flock 9; fi
if [ -e "$venv/moto-$VERSION" ]; then exit 0; fi
echo "installing moto $VERSION into $venv" >&2
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check "moto[server,all]==$VERSION"
touch "$venv/moto-$VERSION"
