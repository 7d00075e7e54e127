#!/usr/bin/env bash
# Everything: format, lints, docs, unit, integration and doc tests, model checking, examples in quick mode, and the
# benchmarks long enough to see that they run. Stops at the first failure, and prints how long each step took.
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
durations=

step() {
    local started=$SECONDS name="$*" result=0
    printf '\n== %s\n' "$name"
    "$@" || result=$?
    local took=$((SECONDS - started))
    durations+=$(printf '%5d s  %s' "$took" "$name")$'\n'
    printf '== %d s\n' "$took"
    return "$result"
}
trap 'printf "\n%s%5d s  in total\n" "$durations" "$SECONDS"' EXIT

for check in format clippy features docs; do step scripts/check.sh "$check"; done

# Servers restart for 20 s a test.
RESTART_SECONDS="${RESTART_SECONDS:-20}" step scripts/check.sh tests
# With a Redis, a PostgreSQL and a NATS: those of REDIS_URL, DATABASE_URL and NATS_URL, or started for the tests.
step scripts/check.sh services
# The handles under every interleaving. A folder of its own: the flag rebuilds everything.
RUSTFLAGS="--cfg buttress_loom" CARGO_TARGET_DIR="$target/loom" step cargo test --lib loom

# One selection of packages and features for all that is built for release, so that dependencies are built once.
release=(--workspace --all-features)
step cargo build --release "${release[@]}" --bins --examples
# Every store under a thousand operations, with servers that are killed. `scripts/torture.sh` runs ten thousand.
TORTURE_KEYS=1000 step scripts/services.sh cargo test --release "${release[@]}" --test exactly_once
for example in own_gate keyed axum_service hyper_client reqwest_client tonic_client; do
    step "$target/release/examples/$example" --quick
done
# Exit code 3: the host is too busy to measure, so the run does not count.
step "$target/release/outage" --quick --json || [ $? -eq 3 ]
PAYMENTS="$target/release/payments" step scripts/services.sh scripts/payments.sh
step "$target/release/repair" demo --quick
step scripts/services.sh "$target/release/sqlx_payment" --quick

# With the settings of the release profile: the figures do not count here.
step cargo bench --profile release "${release[@]}" --bench overhead -- bare
step cargo bench --profile release "${release[@]}" --bench http -- --quick
step cargo bench --profile release "${release[@]}" --bench keyed -- --quick
step scripts/services.sh cargo bench --profile release "${release[@]}" --bench idempotency -- --quick
echo
echo "all passed"
