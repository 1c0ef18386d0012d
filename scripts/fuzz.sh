#!/usr/bin/env bash
# Fuzzes one target for long. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'USAGE'
Feeds any bytes to one target, from a seed, and keeps those that take new ways through the program.

  ./scripts/fuzz.sh                      lists the targets
  ./scripts/fuzz.sh TARGET [SECONDS]     goes on for so long (60), with a line a second
  ./scripts/fuzz.sh TARGET --file FILE   reads one file: a crash, again
  ./scripts/fuzz.sh --help

Environment:
  FUZZ_SEED        what inputs are made from (1)
  FUZZ_GATEWAY     no: only the targets in the pure crates, which compile in a minute

It compiles with optimisation, overflow checks and LLVM's counters of edges, into target/fuzz. Inputs
are kept in target/fuzz/corpus/TARGET, and taken up again by the next run. Where something does not
hold, it writes TARGET.crash and ends with 1. When the fault is mended, move that file to
fuzz/corpus/TARGET: every test run reads it from then on.
USAGE
}

if [[ ${1:-} == -h || ${1:-} == --help ]]; then usage && exit; fi
target=${1:-}
if (($#)); then shift; fi
options=(--features program)
if [[ ${FUZZ_GATEWAY:-yes} == no ]]; then options+=(--no-default-features); fi

# The counters are for this program, not for those that build it: so there is a --target.
machine=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/fuzz}
RUSTFLAGS='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3'
RUSTFLAGS+=' -Cllvm-args=-sanitizer-coverage-inline-8bit-counters'
RUSTFLAGS+=' -Cdebug-assertions=on -Coverflow-checks=on'
export RUSTFLAGS
# It is compiled for minutes of use.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
cargo build --release --locked -p stentor-fuzz --target "$machine" "${options[@]}"
program=$CARGO_TARGET_DIR/$machine/release/stentor-fuzz

if [[ ! $target ]]; then exec "$program"; fi
if [[ ${1:-} == --file ]]; then exec "$program" "$target" "$@"; fi
exec "$program" "$target" --seconds "${1:-60}" --seed "${FUZZ_SEED:-1}" \
    --folder "$CARGO_TARGET_DIR/corpus/$target"
