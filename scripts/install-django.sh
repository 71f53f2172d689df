#!/usr/bin/env bash
# Installs django-tenants and granian into target/django, for `make bench`, which measures them beside Freehold. From PyPI, the
# versions and hashes in benches/django/requirements.txt; nothing outside target/ is touched. Quiet when it is there already.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=benches/django/requirements.txt
venv=target/django
# The last thing that an installation writes.
done=$venv/requirements.txt
if cmp -s "$wanted" "$done" && "$venv/bin/python" -c ''; then exit 0; fi

# A distribution's Python is built with all optimizations; one that was built by hand beside it often is not.
python=/usr/bin/python3
[ -x "$python" ] || python=python3
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  echo "Python 3 with venv is missing (Debian, Ubuntu: apt-get install python3-venv)" >&2
  exit 2
fi
"$python" -m venv --clear "$venv"
if ! timeout 300 "$venv/bin/pip" install --quiet --disable-pip-version-check --timeout 20 --retries 2 \
  --require-hashes --only-binary :all: -r "$wanted"; then
  echo "pip could not install what $wanted names; it asks PyPI" >&2
  exit 1
fi
cp "$wanted" "$done"
