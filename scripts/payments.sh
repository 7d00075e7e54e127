#!/usr/bin/env bash
# Runs the payments example with every store and judges its figures: each order is paid once with the layer, and some are
# paid twice without it. With a Redis and a PostgreSQL of its own: scripts/services.sh scripts/payments.sh [seed]
# PAYMENTS is the path of the program; if it is not set, the program is built first.
set -euo pipefail
cd "$(dirname "$0")/.."
seed=${1:-1}
if [ -z "${PAYMENTS:-}" ]; then
    cargo build --quiet --release -p payments
    PAYMENTS="${CARGO_TARGET_DIR:-target}/release/payments"
fi

# Sets orders, replayed and executed.
run() {
    local report figures
    report=$("$PAYMENTS" --quick --json --seed "$seed" "$@")
    echo "$report"
    figures='^\{"store":"[a-z]+","orders":([0-9]+),"requests_sent":[0-9]+,"replayed":([0-9]+),"conflicts":[0-9]+,"executed":([0-9]+)\}$'
    [[ $report =~ $figures ]] || { echo "payments $*: other figures than those promised" >&2; exit 1; }
    # shellcheck disable=SC2034 # The conditions of `judged` use them.
    orders=${BASH_REMATCH[1]} replayed=${BASH_REMATCH[2]} executed=${BASH_REMATCH[3]}
}

judged() {
    (( $1 )) || { echo "payments: not so: $1" >&2; exit 1; }
}

for store in memory file redis postgres; do
    run --store "$store"
    judged 'executed == orders && replayed > 0'
done
run --store memory --ignore-key
judged 'executed > orders && replayed == 0'
