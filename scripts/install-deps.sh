#!/bin/sh
# Installs what Freehold needs to build, run and be tested, if it is missing: PostgreSQL's server programs (15 or newer),
# Redis, a C compiler, and Node.js (18 or newer) with npm for a local OpenID provider. Debian and Ubuntu; on other
# systems it says what to install. Quiet when nothing is missing.
# With --test also Chromium, which the tests go through the pages with; with --bench also valgrind, which counts
# instructions for the regression gate of `make bench`, and Python's venv, for django-tenants beside which it measures.
#
# Only the programs are wanted: `freehold dev` and the tests start servers of their own. So no system service is started
# or enabled, and no database cluster is created, by what this script installs.
set -eu

POSTGRES_MIN=15
POSTGRES_MAX_TRIED=20
NODE_MIN=18

say() { printf '%s\n' "deps: $*" >&2; }

fail() {
    say "$@"
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Whether a PostgreSQL server (initdb and postgres) that is new enough is there; where src/local/binaries.rs looks.
have_postgres() {
    for bin in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin; do
        version=${bin%/bin}
        version=${version##*/}
        version=${version#pgsql-}
        case $version in *[!0-9]*) continue ;; esac
        if [ "$version" -ge "$POSTGRES_MIN" ] && [ -x "$bin/initdb" ] && [ -x "$bin/postgres" ]; then
            return 0
        fi
    done
    have initdb && have postgres || return 1
    version=$(postgres --version | sed 's/.*(PostgreSQL) \([0-9]*\).*/\1/')
    [ "$version" -ge "$POSTGRES_MIN" ] 2>/dev/null
}

# Whether Node.js is there and new enough for tests/idp, with npm.
have_node() {
    have node && have npm || return 1
    version=$(node --version)
    version=${version#v}
    [ "${version%%.*}" -ge "$NODE_MIN" ] 2>/dev/null
}

# The Python that scripts/install-django.sh takes, with venv.
have_venv() {
    python=/usr/bin/python3
    [ -x "$python" ] || python=python3
    "$python" -c 'import venv, ensurepip' 2>/dev/null
}

# As src/testkit/chromium looks for it.
have_chromium() {
    have chromium || have chromium-browser || have google-chrome-stable || have google-chrome
}

candidate() { LC_ALL=C apt-cache policy "$1" 2>/dev/null | grep -q '^ *Candidate: [^(]'; }

# The newest PostgreSQL that apt can install.
postgres_package() {
    version=$POSTGRES_MAX_TRIED
    while [ "$version" -ge "$POSTGRES_MIN" ]; do
        if candidate "postgresql-$version"; then
            echo "postgresql-$version"
            return
        fi
        version=$((version - 1))
    done
}

have cargo || fail "Rust is missing. Install it from https://rustup.rs, then run this again."

missing=
have_postgres || missing="$missing postgres"
have redis-server || have valkey-server || missing="$missing redis"
have cc || missing="$missing compiler"
if [ "${1:-}" = --bench ]; then
    have valgrind || missing="$missing valgrind"
    have_venv || missing="$missing venv"
fi
if [ "${1:-}" = --test ]; then have_chromium || missing="$missing chromium"; fi
have_node || missing="$missing node"
[ -n "$missing" ] || exit 0

if ! have apt-get; then
    say "missing:$missing. This script only knows Debian and Ubuntu. Install by hand:"
    say "  postgres: the PostgreSQL server, $POSTGRES_MIN or newer (Fedora: postgresql-server, Arch: postgresql)"
    say "  redis:    the Redis or Valkey server, 6.2 or newer (Fedora: valkey, Arch: valkey)"
    say "  compiler: a C compiler and the C library's headers (gcc)"
    say "  valgrind: for the instruction counts of make bench only"
    say "  venv:     Python 3.10 or newer with venv, for django-tenants in make bench only (Fedora: python3, Arch: python)"
    say "  node:     Node.js $NODE_MIN or newer with npm, for the local OpenID provider (Fedora: nodejs npm)"
    say "  chromium: Chromium or Google Chrome, for the tests only (Fedora: chromium)"
    fail "initdb, postgres, redis-server (or valkey-server), cc, node and npm must be on the PATH."
fi

if [ "$(id -u)" -eq 0 ]; then
    root=
elif have sudo; then
    root=sudo
else
    fail "missing:$missing. Run $0 as root to install it (there is no sudo here)."
fi

as_root() {
    if [ -n "$root" ]; then
        sudo env DEBIAN_FRONTEND=noninteractive "$@"
    else
        env DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

update() {
    say "updating the package lists (apt-get update)"
    as_root apt-get update -qq
    updated=yes
}

# Sets `packages` to what would be installed, with a reason said for each when asked to `explain`; fails when apt does
# not know a package.
choose() {
    packages=
    for part in $missing; do
        case $part in
        postgres)
            package=$(postgres_package)
            [ -n "$package" ] || return 1
            reason="the databases of the control plane and the shards"
            ;;
        redis)
            package=redis-server
            candidate "$package" || return 1
            reason="rate limits and caches"
            ;;
        compiler)
            package="gcc libc6-dev"
            candidate gcc || return 1
            reason="cargo links with it, and the TLS library is partly C"
            ;;
        valgrind)
            package=valgrind
            candidate "$package" || return 1
            reason="make bench counts instructions with it"
            ;;
        venv)
            package=python3-venv
            candidate "$package" || return 1
            reason="make bench measures django-tenants beside Freehold"
            ;;
        node)
            package="nodejs npm"
            # Some sources bring npm with nodejs.
            candidate npm || package=nodejs
            candidate nodejs || return 1
            reason="make dev and the tests run a real OpenID provider"
            ;;
        chromium)
            # Ubuntu's package of this name only fetches a snap, which does not start everywhere: there, install Google Chrome.
            package="chromium fonts-liberation"
            candidate chromium || return 1
            reason="the tests go through the pages with it"
            ;;
        esac
        if [ "${1:-}" = explain ]; then say "installing $package: $reason"; fi
        packages="$packages $package"
    done
}

updated=no
choose || {
    update
    choose || fail "this system's package sources lack one of:$missing." \
        "For PostgreSQL $POSTGRES_MIN or newer add https://wiki.postgresql.org/wiki/Apt, then run this again."
}
choose explain
say "no service is started and no database cluster is created by this"

# Both files are only there while apt works, and none that somebody else made is touched.
NO_START=/usr/sbin/policy-rc.d
NO_CLUSTER=/etc/postgresql-common/createcluster.d/freehold-no-main.conf
made=
# shellcheck disable=SC2086 # $made is a list
clean_up() { [ -z "$made" ] || as_root rm -f $made; }
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
if [ ! -e "$NO_START" ]; then
    made="$made $NO_START"
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$NO_START" >/dev/null
    as_root chmod 755 "$NO_START"
fi
if [ ! -e "$NO_CLUSTER" ]; then
    made="$made $NO_CLUSTER"
    as_root mkdir -p "${NO_CLUSTER%/*}"
    echo 'create_main_cluster = false' | as_root tee "$NO_CLUSTER" >/dev/null
fi

# shellcheck disable=SC2086 # $packages is a list
install() { as_root apt-get install -y -qq --no-install-recommends $packages >&2; }
install || {
    # Old lists name packages that the mirrors no longer have.
    [ "$updated" = no ] || fail "apt-get install failed; see above."
    update
    choose
    install || fail "apt-get install failed; see above."
}

# Not at the next boot either: only our own servers are wanted.
case $missing in
*redis*) if have systemctl; then as_root systemctl disable --quiet redis-server >/dev/null 2>&1 || :; fi ;;
esac

have_postgres || fail "PostgreSQL was installed, but initdb and postgres are not where they are expected."
say "done"
