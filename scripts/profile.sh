#!/usr/bin/env bash
# Flame graphs of the gateway under load. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'USAGE'
Draws where the gateway's CPU time goes while it delivers, as flame graphs.

  ./scripts/profile.sh                      unicast and broadcast, into docs/flame-*.svg
  ./scripts/profile.sh FOLDER [SCENARIO…]   into another folder; other scenarios
  ./scripts/profile.sh --help

It needs perf (Debian's package linux-perf) and may use it: root, or
kernel.perf_event_paranoid at most 1. The tool that draws (the crate inferno) is installed below
Cargo's target folder. The gateway is built with frame pointers, in a folder of its own.

Environment:
  CONNECTIONS         how many clients (1000)
  SECONDS_EACH        how long each is watched (10)
  CARGO_TARGET_DIR    where Cargo builds
USAGE
}

if [[ ${1:-} == -h || ${1:-} == --help ]]; then usage && exit; fi
folder=${1:-docs}
scenarios=("${@:2}")
if [[ ${#scenarios[@]} -eq 0 ]]; then scenarios=(unicast broadcast); fi
command -v perf >/dev/null || { echo "perf is not installed; see --help" >&2 && exit 1; }

target=${CARGO_TARGET_DIR:-target}/profile
tools=$target/tools
if [[ ! -x $tools/bin/inferno-flamegraph ]]; then
    # Without the features that only other profilers need.
    RUSTFLAGS='' cargo install --quiet --locked --no-default-features --features cli \
        --root "$tools" --target-dir "$target/tools-build" inferno
fi
RUSTFLAGS='-C force-frame-pointers=yes' CFLAGS='-fno-omit-frame-pointer' \
    CARGO_PROFILE_RELEASE_DEBUG=line-tables-only \
    cargo build --release --locked --target-dir "$target" --package stentor \
    --package stentor-bench --bins

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$folder"
for scenario in "${scenarios[@]}"; do
    # The software clock, for a virtual machine has no counters of the processor.
    "$target/release/stentor-bench" run "$scenario" -n "${CONNECTIONS:-1000}" \
        --seconds "${SECONDS_EACH:-10}" --out "$work/results" \
        --beside "exec perf record --quiet --event cpu-clock --freq 999 --call-graph fp \
            --output '$work/$scenario.perf' --pid \"\$GATEWAYS\""
    perf script --input "$work/$scenario.perf" 2>/dev/null |
        "$tools/bin/inferno-collapse-perf" --quiet |
        "$tools/bin/inferno-flamegraph" --quiet --title "CPU of the gateway: $scenario" \
            --subtitle "${CONNECTIONS:-1000} clients, messages of 256 bytes" \
            >"$folder/flame-$scenario.svg"
    echo "$folder/flame-$scenario.svg"
done
