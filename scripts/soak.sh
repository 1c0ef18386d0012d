#!/usr/bin/env bash
# Runs the checks that take too long for every commit. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'USAGE'
Runs what takes too long for every commit, and counts. ./scripts/test.sh was run before, so that
all is installed.

  ./scripts/soak.sh faults    nodes, restarts and cut links under traffic, again and again
  ./scripts/soak.sh crowds    the tests of faults that have a crowd of clients, with thousands; and a
                              client that missed 300,000 messages
  ./scripts/soak.sh churn     clients that come and go, publishing, and faults at random from a seed
                              (SOAK_SEED), on one gateway; memory, files and threads must stay flat
  ./scripts/soak.sh seeds     the property tests, with new seeds and many more cases
  ./scripts/soak.sh listeners any bytes on any port, with a new seed, for ten minutes
  ./scripts/soak.sh matrix    every test on RabbitMQ 3.10, 4.0, 4.3, and on 4.3 with --strict
  ./scripts/soak.sh all       one after the other
  ./scripts/soak.sh --help

Options, before the name:
  --minutes N       how long `faults` and `churn` go on (60)
  --cases N         how many cases each property of `seeds` gets (20000)
  --rabbitmq V      on which RabbitMQ `faults` runs: 3.10, 4.0, 4.3 (3.10)

It ends with the figures of each part, and fails if any test did.
USAGE
}

minutes=60 cases=20000 rabbitmq=3.10
while [[ ${1:-} == -* ]]; do
    case $1 in
        -h | --help) usage && exit ;;
        --minutes) minutes=${2:?minutes} ;;
        --cases) cases=${2:?a number} ;;
        --rabbitmq) rabbitmq=${2:?a version} ;;
        *)
            echo "There is no option $1; see ./scripts/soak.sh --help" >&2
            exit 2
            ;;
    esac
    shift 2
done
what=${1:-}
case $what in
    faults | crowds | churn | seeds | listeners | matrix) parts=("$what") ;;
    all) parts=(faults crowds churn seeds listeners matrix) ;;
    *)
        echo "There is no part \"$what\"; see ./scripts/soak.sh --help" >&2
        exit 2
        ;;
esac

log=$(mktemp)
trap 'rm -f "$log"' EXIT
figures=() failed=no

# run COMMAND…: shows its output, and keeps it.
run() { "$@" 2>&1 | tee "$log"; }

# The sum of the counts of the test programs.
counts() {
    awk '/^test result: / { passed += $4; failed += $6 }
        END { printf "%d passed, %d failed", passed, failed }' "$log"
}

# Which tests failed, each with how often.
names() { sed -nE 's/^test (.*) \.\.\. FAILED$/\1/p' "$@"; }

faults() {
    local until=$((SECONDS + minutes * 60)) rounds=0 bad=0 all
    all=$(mktemp)
    while ((SECONDS < until)); do
        rounds=$((rounds + 1))
        echo "== Round $rounds; $(((until - SECONDS + 59) / 60)) minutes are left"
        if ! run ./scripts/test.sh --no-setup --rabbitmq "$rabbitmq" -- \
            e2e_nodes e2e_restart e2e_faults amqp_feeds faults::; then
            bad=$((bad + 1))
            names "$log" >>"$all"
        fi
    done
    figures+=("faults, RabbitMQ $rabbitmq: $rounds rounds, $bad with failures")
    while read -r line; do
        if [[ $line ]]; then figures+=("  $line"); fi
    done < <(sort "$all" | uniq -c)
    rm -f "$all"
    if ((bad > 0)); then failed=yes; fi
}

# one CLIENTS TEST: a test of faults, with so many clients.
one() {
    FAULTS_CROWD=$1 run cargo test --locked --test it -- --nocapture --exact "faults::$2" || failed=yes
    figures+=("$2: $(grep -E "$1 |^test result" "$log" | paste -sd ' ')")
}

crowds() {
    one 2000 crowds::rabbitmq_is_killed_under_a_crowd
    one 1000 slow_clients::clients_that_stop_reading_are_closed
    one 1000 slow_clients::clients_that_stop_reading_lose_the_oldest
    one 1000 slow_clients::clients_that_stop_reading_keep_the_newest
    one 5000 crowds::the_end_of_the_gateway_is_spread_over_a_crowd
    one 10000 hook::thousands_wait_for_a_hook_that_comes_and_goes
    JOURNAL_MISSED=300000 run cargo test --locked --test it -- --nocapture --exact \
        journal::many_missed_ones_come_while_others_come || failed=yes
    figures+=("journal: $(grep -E ' missed, |^test result' "$log" | paste -sd ' ')")
}

churn() {
    SOAK_SECONDS=$((minutes * 60)) run cargo test --locked --test it -- --ignored --nocapture \
        --exact faults::soak::churn_and_faults_from_a_seed || failed=yes
    figures+=("churn: $(grep -E '^(SOAK_SEED|[0-9]+ faults|memory|files|threads|test result)' "$log" |
        paste -sd ' ')")
}

seeds() {
    PROPTEST_CASES=$cases run cargo test --workspace --locked --no-fail-fast --lib \
        --test properties --test decoder || failed=yes
    figures+=("seeds, $cases cases each: $(counts)")
}

# FUZZ_SEED repeats a run, and FUZZ_SECONDS changes how long it is.
listeners() {
    run cargo test --locked --test it -- --ignored --nocapture --exact \
        fuzz_listeners::any_bytes_on_any_port_for_long || failed=yes
    figures+=("listeners: $(grep -E '^(FUZZ_SEED|[0-9]+ connections)' "$log" | paste -sd ' ')")
}

matrix() {
    local options took
    for options in '3.10' '4.0' '4.3' '4.3 --strict'; do
        took=$SECONDS
        # shellcheck disable=SC2086 # an option of its own
        run ./scripts/test.sh --rabbitmq $options || failed=yes
        figures+=("RabbitMQ $options: $(counts); $(((SECONDS - took + 30) / 60)) minutes")
        while read -r line; do
            if [[ $line ]]; then figures+=("  $line"); fi
        done < <(names "$log" | sort -u)
    done
}

for part in "${parts[@]}"; do "$part"; done
echo
printf '%s\n' "${figures[@]}"
[[ $failed == no ]]
