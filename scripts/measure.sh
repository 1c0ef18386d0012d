#!/usr/bin/env bash
# Measures all that docs/performance.md tells, and writes it there. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'USAGE'
Builds everything, measures Stentor and RabbitMQ's Web STOMP, and writes tables and charts into
docs. It takes hours; nothing else should run on the machine.

  ./scripts/measure.sh             everything
  ./scripts/measure.sh --few       the same, on a few connections and for a second each: whether
                                   it would work. Writes nothing into docs
  ./scripts/measure.sh --help

Environment:
  RUNS                how often each is measured (3)
  RESULTS             where runs are saved (results); it must be empty, or not be there
  CARGO_TARGET_DIR    where Cargo builds
USAGE
}

few=no
case ${1:-} in
    -h | --help) usage && exit ;;
    --few) few=yes ;;
    '') ;;
    *)
        echo "There is no option $1; see ./scripts/measure.sh --help" >&2
        exit 2
        ;;
esac

runs=${RUNS:-3}
results=${RESULTS:-results}
if [[ -d $results && -n $(ls -A "$results") ]]; then
    echo "There are results in $results already: move them away, or set RESULTS." >&2
    exit 1
fi

cargo build --release --locked --package stentor --package stentor-bench --bins
bench=${CARGO_TARGET_DIR:-target}/release/stentor-bench

# measure ARGUMENT…: one scenario. A message that was not right makes the tool fail; the report
# tells of it, so the rest is measured all the same.
measure() {
    local arguments=("$@" --runs "$runs" --out "$results")
    if [[ $few == yes ]]; then
        local at
        for at in "${!arguments[@]}"; do
            if [[ ${arguments[at]} == -n ]]; then arguments[at + 1]=50; fi
        done
        arguments+=(--seconds 1 --warm-up 0.5)
    fi
    echo "stentor-bench ${arguments[*]}"
    "$bench" "${arguments[@]}" || echo "It says that something was wrong; see above." >&2
}

# Beside Web STOMP, which takes some 17,000 connections where a process may have 20,000 files.
measure compare idle -n 1000,5000,10000,15000
measure compare storm -n 2000
measure compare storm -n 2000 --same-user
measure compare unicast broadcast -n 1000,5000
measure compare latency -n 1000 --rate 1000
measure compare latency -n 1000 --rate 5000
measure compare fairness churn bindings slow -n 1000

# Stentor alone.
measure run idle fairness -n 18000
measure run storm -n 2000 --transient
measure run storm unicast -n 1000 --server embedded
for nodes in 1 2 3 4 5; do
    measure run idle unicast -n $((nodes * 18000)) --nodes "$nodes"
done

if [[ $few == yes ]]; then
    "$bench" report "$results"
else
    "$bench" plot "$results" --into docs
    "$bench" report "$results" --into docs/performance.md
fi
