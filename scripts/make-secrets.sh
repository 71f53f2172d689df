#!/bin/sh
# Makes the secrets of infra/compose.yaml: random, in infra/secrets/, a folder that only its owner may enter. What is there
# already is kept: to rotate one, see docs/DEPLOY.md.
set -eu
cd "$(dirname "$0")/../infra"

umask 077
mkdir -p secrets
chmod 700 secrets

random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

# keep NAME VALUE. Containers mount the file by itself and read it as a user of their own, which is nobody here: so the
# file may be read, and the folder may not be entered.
keep() {
    if [ -e "secrets/$1" ]; then return; fi
    printf '%s\n' "$2" >"secrets/$1.new"
    chmod 444 "secrets/$1.new"
    mv "secrets/$1.new" "secrets/$1"
    echo "made infra/secrets/$1" >&2
}

keep master_key "$(random)"
keep control_password "$(random)"
keep shard_1_password "$(random)"
keep shard_2_password "$(random)"
keep redis_conf "requirepass $(random)"

# The network between the containers is one bridge of this machine: it is said that nothing is encrypted on it.
keep control_url "postgres://freehold:$(cat secrets/control_password)@control:5432/freehold?sslmode=disable"
keep shard_1 "postgres://freehold_admin:$(cat secrets/shard_1_password)@shard-1:5432/shard?sslmode=disable"
keep shard_2 "postgres://freehold_admin:$(cat secrets/shard_2_password)@shard-2:5432/shard?sslmode=disable"
keep redis_url "redis://:$(cut -d' ' -f2 secrets/redis_conf)@redis:6379/"
