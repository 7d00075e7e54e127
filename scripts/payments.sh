#!/usr/bin/env bash
# Runs the payments example with every store and judges its figures: each order is paid once with the layer, and some are
# paid twice without it. With a Redis and a PostgreSQL of its own: scripts/services.sh scripts/payments.sh [seed]
set -euo pipefail
cd "$(dirname "$0")/.."
seed=${1:-1}

cargo build --quiet --release --all-features --example payments
payments="${CARGO_TARGET_DIR:-target}/release/examples/payments"

# The name, what has to be true of the figures, and the flags.
judged() {
    local report
    report=$("$payments" --quick --json --seed "$seed" "${@:3}")
    echo "$report"
    python3 - "$1" "$2" "$report" <<'PY'
import json, sys

name, holds, figures = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
if list(figures) != ["store", "orders", "requests_sent", "replayed", "conflicts", "executed"]:
    sys.exit(f"payments {name}: other figures than those promised")
if not eval(holds, figures):
    sys.exit(f"payments {name}: not so: {holds}")
PY
}

for store in memory file redis postgres; do
    judged "$store" 'executed == orders and replayed > 0' --store "$store"
done
judged 'without the layer' 'executed > orders and replayed == 0' --store memory --ignore-key
