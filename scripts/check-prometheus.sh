#!/bin/sh
# Checks infra/prometheus with promtool: the configuration, the rules, the rules' own tests, and the form of what a server
# and a worker really export, which `cargo test` leaves in target/metrics.
set -eu
cd "$(dirname "$0")/.."

promtool=$(scripts/install-promtool.sh) || {
    echo "NOT CHECKED: infra/prometheus (there is no promtool, and no package of it)" >&2
    exit 0
}
"$promtool" check config infra/prometheus/prometheus.yml
"$promtool" test rules infra/prometheus/tests.yml
for scraped in target/metrics/*.prom; do
    if [ ! -e "$scraped" ]; then
        echo "NOT CHECKED: the form of /metrics (cargo test leaves it in target/metrics)" >&2
        break
    fi
    echo "Checking $scraped"
    "$promtool" check metrics <"$scraped"
done
