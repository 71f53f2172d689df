#!/usr/bin/env bash
# Builds the image and sees it run as it is meant to: as nobody, on a root file system that cannot be written, with secrets
# from files, against PostgreSQL and Redis of its own; asks /health/ready from outside and `freehold health` inside; stops it
# by SIGTERM. Says its size. Everything it starts ends with it.
#
#   scripts/check-image.sh                 compile in the image (minutes), then try it
#   scripts/check-image.sh --prebuilt      around target/dist/freehold
#
# Needs docker or podman, the servers that scripts/install-deps.sh installs, curl, Python 3. RUN_IMAGE and BUILD_IMAGE are the
# Dockerfile's; BUILD_FLAGS and RUN_FLAGS go to the engine, for places that confine it: where a process may not raise its
# limits, RUN_FLAGS="--ulimit nofile=10000:10000 --ulimit nproc=4096:4096".
set -euo pipefail
cd "$(dirname "$0")/.."

target=app
case ${1:-} in
  --prebuilt) target=prebuilt ;;
  "") ;;
  *) echo "usage: $0 [--prebuilt]" >&2; exit 2 ;;
esac
tag=freehold:checked

fail() { echo "image: $*" >&2; exit 1; }
say() { echo "image: $*" >&2; }

if docker info >/dev/null 2>&1; then
  engine=docker format=()
elif command -v podman >/dev/null; then
  # The other format keeps no health check.
  engine=podman format=(--format docker)
else
  echo "NOT CHECKED: the image (neither docker with its engine nor podman is here)" >&2
  exit 2
fi
for tool in redis-server curl; do command -v $tool >/dev/null || fail "$tool is missing"; done
postgres=
for bin in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin; do
  if [ -x "$bin/initdb" ]; then postgres=$bin; fi
done
[ -n "$postgres" ] || fail "PostgreSQL's server programs are missing (scripts/install-deps.sh)"

args=()
for name in RUN_IMAGE BUILD_IMAGE; do
  if [ -n "${!name:-}" ]; then args+=(--build-arg "$name=${!name}"); fi
done
if [ "$target" = prebuilt ] && [ ! -x target/dist/freehold ]; then
  fail "target/dist/freehold is missing: cargo build --locked --profile dist"
fi
say "building (target $target)"
# shellcheck disable=SC2086 # BUILD_FLAGS is a list
$engine build "${format[@]}" "${args[@]}" ${BUILD_FLAGS:-} --target "$target" --tag "$tag" .
size=$($engine image inspect --format '{{.Size}}' "$tag")
say "size: $((size / 1000000)) MB"

# --- what it needs around it -----------------------------------------------------------------------------------------
work=$(mktemp -d)
chmod 755 "$work"
names=()
cleanup() {
  for name in "${names[@]}"; do
    if [ "${failed:-yes}" = yes ]; then $engine logs --tail 20 "$name" >&2 || :; fi
    $engine rm --force "$name" >/dev/null 2>&1 || :
  done
  [ ! -f "$work/redis.pid" ] || kill "$(cat "$work/redis.pid")" 2>/dev/null || :
  [ ! -d "$work/postgres" ] || unprivileged "$postgres/pg_ctl" -D "$work/postgres" -m immediate -w stop >/dev/null 2>&1 || :
  rm -rf "$work"
}
trap cleanup EXIT

# PostgreSQL refuses to run as root.
unprivileged() {
  if [ "$(id -u)" -ne 0 ]; then "$@"; else setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; fi
}
# Another user's mounts are root's to see.
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
secret() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

db_port=$(free_port) redis_port=$(free_port) http=$(free_port) metrics=$(free_port) worker_metrics=$(free_port)
db_password=$(secret) redis_password=$(secret)
mkdir "$work/postgres" "$work/secrets"
[ "$(id -u)" -ne 0 ] || chown postgres "$work/postgres"
(umask 077 && printf '%s' "$db_password" >"$work/password")
[ "$(id -u)" -ne 0 ] || chown postgres "$work/password"
unprivileged "$postgres/initdb" -D "$work/postgres" -U freehold -A scram-sha-256 --pwfile="$work/password" -E UTF8 >/dev/null
unprivileged "$postgres/pg_ctl" -D "$work/postgres" -l "$work/postgres/log" -w start \
  -o "-p $db_port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$work/postgres -c fsync=off" >/dev/null
PGPASSWORD=$db_password psql -q -h 127.0.0.1 -p "$db_port" -U freehold -d postgres \
  -c 'CREATE DATABASE freehold' -c 'CREATE DATABASE shard'
printf 'bind 127.0.0.1\nport %s\nrequirepass %s\nsave ""\ndaemonize yes\npidfile %s\ndir %s\n' \
  "$redis_port" "$redis_password" "$work/redis.pid" "$work" | redis-server - >/dev/null

secret >"$work/secrets/master_key"
printf 'postgres://freehold:%s@127.0.0.1:%s/freehold\n' "$db_password" "$db_port" >"$work/secrets/control_url"
printf 'postgres://freehold:%s@127.0.0.1:%s/shard\n' "$db_password" "$db_port" >"$work/secrets/shard"
printf 'redis://:%s@127.0.0.1:%s/\n' "$redis_password" "$redis_port" >"$work/secrets/redis_url"
chmod 444 "$work"/secrets/*

# --- the image, as compose and ECS run it ----------------------------------------------------------------------------
confined=(
  --network host --read-only --cap-drop ALL --security-opt no-new-privileges --user 65532:65532
  --volume "$work/secrets:/run/secrets:ro"
  --env FREEHOLD_CONTROL_URL=file:/run/secrets/control_url --env FREEHOLD_MASTER_KEY=file:/run/secrets/master_key
)
# In podman --read-only still has a /tmp that can be written, unless it is told not to.
[ "$engine" = docker ] || confined+=(--read-only-tmpfs=false)
# shellcheck disable=SC2206 # RUN_FLAGS is a list
confined+=(${RUN_FLAGS:-})

freehold() { $engine run --rm --no-healthcheck "${confined[@]}" "$tag" "$@"; }
start() { # NAME METRICS-PORT COMMAND ENV...
  local name=$1 port=$2 command=$3
  shift 3
  names+=("$name")
  $engine run --detach --name "$name" "${confined[@]}" --env "FREEHOLD_METRICS_ADDR=127.0.0.1:$port" "$@" "$tag" "$command" >/dev/null
}
until_ready() { # NAME PORT
  for _ in $(seq 120); do
    if curl -fsS --max-time 2 "http://127.0.0.1:$2/health/ready" >/dev/null 2>&1; then return; fi
    sleep 0.5
  done
  fail "$1 did not become ready"
}

# By the image's own HEALTHCHECK.
healthy() {
  if [ "$engine" = podman ]; then
    podman healthcheck run "$1"
  else
    for _ in $(seq 60); do
      if [ "$(docker inspect --format '{{.State.Health.Status}}' "$1")" = healthy ]; then return; fi
      sleep 1
    done
    return 1
  fi
}

freehold migrate control >/dev/null
freehold plan apply >/dev/null
freehold pool add default --region here >/dev/null
freehold shard add one --pool default --dsn file:/run/secrets/shard --tenant-cap 100 --slots 2 >/dev/null
run=$$
start "freehold-serve-$run" "$metrics" serve --env "FREEHOLD_HTTP_ADDR=127.0.0.1:$http" --env FREEHOLD_REDIS_URL=file:/run/secrets/redis_url
start "freehold-worker-$run" "$worker_metrics" worker
until_ready serve "$http"
until_ready worker "$worker_metrics"
echo "/health/ready: $(curl -fsS "http://127.0.0.1:$http/health/ready")"
echo "worker: $(curl -fsS "http://127.0.0.1:$worker_metrics/health/ready")"

for name in "${names[@]}"; do
  healthy "$name" || fail "$name: its own HEALTHCHECK says no"
  pid=$($engine inspect --format '{{.State.Pid}}' "$name")
  uids=$(sed -n 's/^Uid:\t//p' "/proc/$pid/status")
  [ "$uids" = "$(printf '65532\t65532\t65532\t65532')" ] || fail "$name runs as $uids"
  as_root grep -qE '^[0-9]+ [0-9]+ [0-9]+:[0-9]+ \S+ / ro[, ]' "/proc/$pid/mountinfo" || fail "the root file system of $name can be written"
  [ "$(sed -n 's/^CapEff:\t//p' "/proc/$pid/status")" = 0000000000000000 ] || fail "$name has capabilities"
  echo "$name: uid 65532, no capabilities, root file system read-only, healthy"
done

# A tenant through the running pair: sign-up, key, one request that is answered from its schema.
freehold tenant create acme --plan team >/dev/null
key=$(freehold api-key create --tenant acme --role owner --name check --output json | sed -n 's/.*"key": "\(fhk_[^"]*\)".*/\1/p')
curl -fsS -o /dev/null -H "Authorization: Bearer $key" -H 'Host: acme.localhost' "http://127.0.0.1:$http/api/v1/projects" \
  || fail "the tenant's first request"
freehold doctor | tail -n 1

for name in "${names[@]}"; do
  $engine stop --time 30 "$name" >/dev/null
  code=$($engine inspect --format '{{.State.ExitCode}}' "$name")
  [ "$code" = 0 ] || fail "$name ended with $code on SIGTERM"
done
failed=no
say "ran as it should; $((size / 1000000)) MB"
