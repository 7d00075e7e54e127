#!/usr/bin/env bash
# Every store under ten thousand operations, each sent 32 times, with servers that are killed:
#
#     scripts/torture.sh [keys [trial …]]
#     scripts/torture.sh 10000 redis_cluster
set -euo pipefail
cd "$(dirname "$0")/.."

keys=${1:-10000}
[ $# -eq 0 ] || shift
TORTURE_KEYS=$keys exec scripts/services.sh cargo test --release -p exactly_once -- "$@"
