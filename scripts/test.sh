#!/usr/bin/env bash
# Everything: format, lints, docs, unit, integration and doc tests, model checking, examples in quick mode, and the
# benchmarks long enough to see that they run. Stops at the first failure.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; "$@"; }

step cargo fmt --all --check
step cargo clippy --workspace --all-targets --all-features -- -D warnings
# Features gate dependencies only; each combination that a user may pick has to build.
for features in "" metrics tracing http hyper http2 reqwest serde test-util idempotency file redis postgres axum tower tonic; do
    step cargo clippy --lib --no-default-features --features "$features" -- -D warnings
done
RUSTDOCFLAGS="-D warnings" step cargo doc --no-deps --all-features
RUSTDOCFLAGS="-D warnings" step scripts/surface.sh --check

# With a Redis and a PostgreSQL of their own, or those of REDIS_URL and DATABASE_URL. Servers restart for 20 s a test.
RESTART_SECONDS="${RESTART_SECONDS:-20}" step scripts/services.sh cargo test --all-features
# Every store under a thousand operations, with servers that are killed. `scripts/torture.sh` runs ten thousand.
TORTURE_KEYS=1000 step scripts/services.sh cargo test --release --all-features --test exactly_once
# The handles under every interleaving. A folder of its own: the flag rebuilds everything.
RUSTFLAGS="--cfg buttress_loom" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom" \
    step cargo test --lib loom

for example in own_gate keyed axum_service hyper_client reqwest_client tonic_client; do
    step cargo run --quiet --release --all-features --example "$example" -- --quick
done
# Exit code 3: the host is too busy to measure, so the run does not count.
step cargo run --quiet --release --example outage -- --quick --json || [ $? -eq 3 ]
step scripts/services.sh scripts/payments.sh
step cargo run --quiet --release --all-features --example repair -- demo --quick
step scripts/services.sh cargo run --quiet --release -p sqlx_payment -- --quick
step scripts/services.sh --nats cargo test --release -p nats_consumer

step cargo bench --all-features --bench overhead -- bare
step cargo bench --all-features --bench http -- --quick
step cargo bench --all-features --bench keyed -- --quick
step scripts/services.sh cargo bench --all-features --bench idempotency -- --quick
echo
echo "all passed"
