#!/usr/bin/env bash
# Runs the outage example for a fault (default: hang) and checks its figures. If the machine is too busy to measure, it
# is run again, at most three times, and then fails.
#
#   scripts/outage.sh [hang|slow|errors|refuse] [seed]
set -euo pipefail
cd "$(dirname "$0")/.."
fault=${1:-hang}
seed=${2:-1}

cargo build --quiet --release -p outage
outage="${CARGO_TARGET_DIR:-target}/release/outage"
for try in 1 2 3; do
    if report=$("$outage" --fault "$fault" --seed "$seed" --quick --json 2>"$outage.log"); then
        break
    elif [ $? -ne 3 ]; then
        cat "$outage.log" >&2
        exit 1
    elif [ "$try" = 3 ]; then
        echo "outage $fault: the host was too busy three times; nothing was measured" >&2
        exit 3
    fi
done
echo "$report"
python3 - "$fault" "$report" <<'PY'
import json, sys

fault, report = sys.argv[1], json.loads(sys.argv[2])
ours, naive = report["buttress"], report["naive"]
recovered, attempts = {"hang": (5, 0.3), "slow": (5, 0.3), "errors": (4, 0.1), "refuse": (7, 0.1)}[fault]
wrong = []

def hold(what, holds):
    if not holds:
        wrong.append(what)

hold(f"recovered within {recovered} s", (ours["recovered_after_s"] or 99) <= recovered or ours["recovered_after_s"] == 0)
hold(f"at most {attempts} attempts a call", ours["attempts_per_call_during"] <= attempts)
if fault != "refuse":
    hold("at least half of the calls answered afterwards", ours["goodput_after"] >= 0.5)
    hold("the naive client answers nothing afterwards", naive["goodput_after"] <= 0.05)
if fault in ("hang", "slow"):
    hold("the breaker opened", ours["breaker_opened"] >= 1)
hold("naive makes at least 3.5 attempts a call", naive["attempts_per_call_during"] >= 3.5)
hold("naive does not recover", naive["recovered_after_s"] is None)
for what in wrong:
    print(f"outage {fault}: not so: {what}", file=sys.stderr)
sys.exit(bool(wrong))
PY
