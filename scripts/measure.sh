#!/usr/bin/env bash
# Measures all that docs/performance.md tells, and writes it there. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The sets: name, minutes with --quick, minutes without, content.
sets='
micro      2  10  parts: decoder, session, routing tables of a million keys, mailbox; bindings at RabbitMQ
idle       7  40  memory and CPU of connections that only stay, 1,000 to 18,000, beside Web STOMP
storm      3  10  everybody comes at once, with and without cached permissions, durable and not
unicast    4  15  messages to single users, beside Web STOMP
broadcast  6  25  messages to everybody, beside Web STOMP, bare writes and nats-server
embedded   1   3  storm and unicast on the embedded broker
latency    3   8  1,000 and 5,000 messages a second; single users beside broadcasts to 18,000
growth     8  45  unicast and storm with 18,000 connections; five gateways with 90,000 on one RabbitMQ
tls        2  10  WebSocket over TLS
sockjs     2   8  SockJS by streaming and by polling
rabbitmq4  2  10  unicast and storm on RabbitMQ 4.3, beside its Web STOMP; laid out by rabbitmq.sh
nodes      4  15  unicast and storm with 4,000 connections on 1, 2, 4, 8 and 16 gateways
gochat     1   5  everybody sends to everybody, 10,000,000 deliveries, embedded and through RabbitMQ
million    4 130  many gateways, both ends here: 100,000 connections with --quick, otherwise 1,000,000
others     0  25  scenarios without a target: churn, bindings, slow clients
'

usage() {
    cat <<USAGE
Builds everything, measures Stentor, RabbitMQ's Web STOMP and nats-server, and writes tables and
charts into docs. Nothing else should run on the machine.

  ./scripts/measure.sh                everything; it takes hours
  ./scripts/measure.sh --quick        all that has a target, for a short while each
  ./scripts/measure.sh --quick idle   one set, or several
  ./scripts/measure.sh --resume       go on: skip measurements that are in the results
  ./scripts/measure.sh --plan         print the sets with the minutes that they take
  ./scripts/measure.sh --few          a dry run: a few connections, a second each, in
                                      a folder of its own. Writes nothing into docs
  ./scripts/measure.sh --help

Sets, with minutes (--quick, and otherwise):
$sets
Environment:
  RUNS                how often each is measured (3)
  RESULTS             where runs are saved (results); empty, or not there, unless --resume
  CARGO_TARGET_DIR    where Cargo builds
USAGE
}

quick=no few=no resume=no plan_only=no
wanted=()
while [[ $# -gt 0 ]]; do
    case $1 in
        -h | --help) usage && exit ;;
        --quick) quick=yes ;;
        --few) few=yes quick=yes ;;
        --resume) resume=yes ;;
        --plan) plan_only=yes ;;
        *)
            if [[ $1 == -* ]] || ! grep -q "^$1 " <<<"$sets"; then
                echo "There is no option or set $1; see ./scripts/measure.sh --help" >&2
                exit 2
            fi
            wanted+=("$1")
            ;;
    esac
    shift
done

# The plan, in order: lines of a name and its minutes.
plan=$(awk -v quick="$quick" -v wanted=" ${wanted[*]} " '
    NF { minutes = quick == "yes" ? $2 : $3 }
    NF && (wanted == "  " ? minutes > 0 : index(wanted, " " $1 " ")) { print $1, minutes }
' <<<"$sets")
total=$(awk '{ sum += $2 } END { print sum }' <<<"$plan")
echo "The plan, in minutes (and before it, the build):"
awk '{ printf "  %-10s %3d\n", $1, $2 }' <<<"$plan"
echo "  together   $total"
if [[ $plan_only == yes ]]; then exit; fi

runs=${RUNS:-3}
results=${RESULTS:-results}
if [[ $few == yes ]]; then
    runs=1
    results=$(mktemp -d)
    trap 'rm -rf "$results"' EXIT
elif [[ $resume == no && -d $results && -n $(ls -A "$results") ]]; then
    echo "There are results in $results already: use --resume, move them away, or set RESULTS." >&2
    exit 1
fi
mkdir -p "$results"

# A dry run needs no optimised programs, which take long to build.
profile=release built=release
if [[ $few == yes ]]; then profile=dev built=debug; fi
cargo build --profile "$profile" --locked --package stentor --package stentor-bench --bins
if [[ $plan == *micro* ]]; then
    cargo bench --profile "$profile" --locked --no-run --package stomp-grammar \
        --package stomp-session --package amqp-wire --package stentor --benches
fi
bench=${CARGO_TARGET_DIR:-target}/$built/stentor-bench

failures=0

# measure ARGUMENT…: one scenario. A message that was not right makes the tool fail; the report
# tells of it, so the rest is measured all the same.
measure() {
    local arguments=("$@" --out "$results" --resume) count=$runs at
    if [[ " $* " != *" --runs "* ]]; then arguments+=(--runs "$count"); fi
    if [[ $few == yes ]]; then
        for at in "${!arguments[@]}"; do
            case ${arguments[at]} in
                -n) arguments[at + 1]=50 ;;
                gochat) arguments+=(--rounds 2) ;;
                --runs) arguments[at + 1]=1 ;;
            esac
        done
        arguments+=(--seconds 1 --warm-up 0.5)
    elif [[ $quick == yes && " $* " != *" idle "* ]]; then
        arguments+=(--seconds 4 --warm-up 1)
    fi
    echo "stentor-bench ${arguments[*]}"
    if ! "$bench" "${arguments[@]}"; then
        failures=$((failures + 1))
        echo "It says that something was wrong; see above." >&2
    fi
}

# micro PACKAGE BENCHMARK: saves its output, and the figures that it writes down.
micro() {
    local file=$results/$2.bench.txt options=()
    local command=(cargo bench --profile "$profile" --locked --quiet --package "$1" --bench "$2")
    if [[ -s $file ]]; then return; fi
    # Those that are not divan's take no options.
    case $2 in
        bindings | feeds) ;;
        *) if [[ $few == yes ]]; then options=(-- --max-time 0.05); fi ;;
    esac
    echo "${command[*]}"
    # Benchmarks run in their package's folder.
    if FIGURES=$(realpath "$results")/$2.figures "${command[@]}" "${options[@]}" >"$file.part"; then
        mv "$file.part" "$file"
    else
        failures=$((failures + 1))
        rm -f "$file.part"
    fi
}

# once COMMAND…: where one run says enough.
once() { measure "$@" --runs 1; }

# With --quick this, otherwise that.
pick() { if [[ $quick == yes ]]; then echo "$1"; else echo "$2"; fi; }

set_micro() {
    if [[ $quick == yes ]]; then export KEYS=50000 MESSAGES=200000 RUNS=1; fi
    if [[ $few == yes ]]; then export KEYS=200 MESSAGES=2000; fi
    micro stomp-grammar codec
    micro amqp-wire decoder
    micro stomp-session session
    micro stentor push
    micro stentor feeds
    micro stentor bindings
}

set_idle() {
    measure run idle -n "$(pick 1000,15000,18000 1000,5000,10000,15000,18000)"
    if [[ $quick == yes ]]; then
        once run idle -n 5000 --server stentor,web-stomp
    else
        # It takes some 17,000 connections where a process may have 20,000 files.
        measure run idle -n 1000,5000,10000,15000 --server web-stomp
    fi
}

set_storm() {
    measure compare storm -n 2000
    measure compare storm -n 2000 --same-user
    measure run storm -n 2000 --transient
    measure run storm -n 2000 --transient --same-user
}

set_unicast() {
    measure compare unicast -n 1000,5000
}

set_broadcast() {
    measure run broadcast -n 1000,5000 --server web-stomp,stentor,nats
}

set_embedded() {
    measure run storm -n 2000 --same-user --server embedded
    measure run unicast -n 1000 --server embedded
}

set_latency() {
    local rate
    for rate in 1000 5000; do
        measure run latency -n 1000 --rate "$rate"
        "$(pick once measure)" run latency -n 1000 --rate "$rate" --server web-stomp
    done
    "$(pick once measure)" run fairness -n 18000
}

set_growth() {
    local nodes
    measure run unicast -n 18000
    measure run storm -n 1000,18000
    for nodes in $(pick 5 '2 3 4 5'); do
        "$(pick once measure)" run idle unicast storm -n $((nodes * 18000)) --nodes "$nodes"
    done
}

set_tls() {
    once run idle -n 5000 --tls
    measure run unicast broadcast -n 1000 --tls
    if [[ $quick == no ]]; then measure run unicast broadcast -n 1000 --tls --server web-stomp; fi
}

set_sockjs() {
    local transport
    for transport in sockjs-xhr-streaming sockjs-xhr; do
        once run idle -n 5000 --transport "$transport"
        "$(pick once measure)" run unicast broadcast -n 1000 --transport "$transport"
    done
}

set_rabbitmq4() {
    local bin
    if ! bin=$(./scripts/rabbitmq.sh 4.3); then
        failures=$((failures + 1))
        return
    fi
    TESTKIT_RABBITMQ_BIN=$bin measure compare unicast -n 1000
    TESTKIT_RABBITMQ_BIN=$bin measure compare storm -n 2000
}

set_nodes() {
    "$(pick once measure)" run unicast storm -n 4000 --nodes 1,2,4,8,16
}

set_gochat() {
    "$(pick once measure)" run gochat --server embedded,stentor
}

set_million() {
    local arguments=(million --out "$results")
    if [[ $few == yes ]]; then
        arguments+=(-n 50 --hold 1s)
    elif [[ $quick == yes ]]; then
        arguments+=(-n 100000 --hold 1m)
    else
        arguments+=(-n 1000000 --hold 90m)
    fi
    echo "stentor-bench ${arguments[*]}"
    "$bench" "${arguments[@]}" || failures=$((failures + 1))
}

set_others() {
    measure compare fairness churn bindings slow -n 1000
    measure run unicast -n 1000 --server nats
}

began=$SECONDS
while read -r name minutes; do
    echo
    echo "== $name, about $minutes min; $(((SECONDS - began) / 60)) min of about $total are over"
    "set_$name" </dev/null
done <<<"$plan"
echo
echo "All took $(((SECONDS - began + 30) / 60)) min."

if [[ $few == yes ]]; then
    "$bench" report "$results"
else
    "$bench" plot "$results" --into docs
    "$bench" report "$results" --into docs/performance.md
fi
if [[ $failures -gt 0 ]]; then
    echo "$failures of the steps were not as they should be; see above." >&2
    exit 1
fi
