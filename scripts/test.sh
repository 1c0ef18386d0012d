#!/usr/bin/env bash
# Installs the needs of the tests, then runs all of them. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'EOF'
Runs every check of this repository, after installing missing packages.

  ./scripts/test.sh              everything on RabbitMQ 3.10, and on 4.3 the tests that differ most:
                                 the broker contract, conformance, restarts, nodes and feeds. CI
                                 runs this
  ./scripts/test.sh --rabbitmq 3.10|4.0|4.3
                                 everything, on this RabbitMQ alone; ./scripts/rabbitmq.sh has it
  ./scripts/test.sh --rabbitmq 4.3 --strict
                                 the same where an operator denied every deprecated feature, and
                                 queues are quorum queues unless they say otherwise
  ./scripts/test.sh -- FILTER…   only the Rust tests whose names contain FILTER; all that
                                 stands behind `--` goes to the test programs
  ./scripts/test.sh --setup      only install
  ./scripts/test.sh --no-setup   install nothing
  ./scripts/test.sh --help

Installed are, each only if it is missing, while the programs are compiled:
  with apt-get (through sudo, unless you are root): rabbitmq-server, redis-server, nats-server, nginx,
  haproxy, prometheus, chromium, nodejs, npm, python3-venv, default-jdk-headless, libnet-stomp-perl,
  ruby-stomp, curl, procps, a C compiler; into this folder: tests/js/node_modules and .venv; into a
  cache: other RabbitMQs, see ./scripts/rabbitmq.sh --help.
Rust itself is yours to install; see rust-version in Cargo.toml.

The last lines say how long each step took, and how many tests passed and failed. Up to three tests
that fail run once more by themselves; if they pass then, the last lines name them as unsteady.

On a machine with systemd the packages of RabbitMQ, Redis, NATS, nginx, HAProxy and Prometheus start
their services. The tests use none of them: they start servers of their own, on free ports, with
folders of their own, and end them.

Environment:
  CARGO_TARGET_DIR       where Cargo builds
  CHROMIUM               Chromium's program, if it is not /usr/bin/chromium
  TESTKIT_RABBITMQ_BIN   the folder of RabbitMQ's scripts; instead of --rabbitmq
  TESTKIT_RABBITMQ_CONF  a file whose lines every node's rabbitmq.conf gets; instead of --strict
  STENTOR_CACHE, DEBIAN_MIRROR   see ./scripts/rabbitmq.sh --help
EOF
}

setup=yes checks=all rabbitmq='' strict=no
filter=()
while (($#)); do
    case $1 in
        -h | --help) usage && exit ;;
        --setup) checks=no ;;
        --no-setup) setup=no ;;
        --strict) strict=yes ;;
        --rabbitmq)
            rabbitmq=${2:-}
            if [[ ! $rabbitmq =~ ^(3\.10|4\.0|4\.3)$ ]]; then
                echo "--rabbitmq takes 3.10, 4.0 or 4.3, not \"$rabbitmq\"" >&2
                exit 2
            fi
            shift
            ;;
        --)
            shift
            checks=filter filter=("$@")
            break
            ;;
        *)
            echo "There is no option $1; see ./scripts/test.sh --help" >&2
            exit 2
            ;;
    esac
    shift
done
if [[ $strict == yes ]]; then
    if [[ $rabbitmq != 4.* ]]; then
        echo '--strict needs --rabbitmq 4.0 or 4.3: a 3.10 cannot deny deprecated features.' >&2
        exit 2
    fi
    export TESTKIT_RABBITMQ_CONF=$PWD/testkit/strict.conf
fi

# Nothing here asks anything, so nothing may wait for an answer.
exec </dev/null
chromium=${CHROMIUM:-/usr/bin/chromium}

# A client is a file; many clients are many files.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true

# ---- How steps are shown, bounded and counted ----

bold='' red='' green='' plain=''
if [[ -t 1 ]]; then bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'; fi
current='the beginning'
began=0
figures=() failures=() skipped=() unsteady=()
logs=$(mktemp -d)
setup_pid=''

elapsed() { printf '%dm%02ds' $(($1 / 60)) $(($1 % 60)); }

finish() {
    local code=$?
    trap - EXIT
    if [[ $setup_pid ]]; then
        kill -TERM -- "-$setup_pid" 2>/dev/null || true
        cat "$logs/setup" 2>/dev/null || true
    fi
    if ((code != 0)); then failures+=("$current (exit code $code)"); fi
    if ((${#figures[@]})); then printf '\n%sTime by step%s\n' "$bold" "$plain"; fi
    if ((${#figures[@]})); then printf '  %s\n' "${figures[@]}"; fi
    if ((${#skipped[@]})); then printf '\nNot done: %s\n' "${skipped[@]}"; fi
    if ((${#unsteady[@]})); then
        printf '\n%sUnsteady: these failed, and passed by themselves. Mend them%s\n' "$red" "$plain"
        printf '  %s\n' "${unsteady[@]}"
    fi
    if ((${#failures[@]} == 0)); then
        printf '\n%sOK: %d steps passed in %s%s\n' \
            "$green" "${#figures[@]}" "$(elapsed $SECONDS)" "$plain"
    else
        printf '\n%sFAILED after %s:%s\n' "$red" "$(elapsed $SECONDS)" "$plain" >&2
        printf '  %s\n' "${failures[@]}" >&2
        if ((code == 0)); then code=1; fi
    fi
    rm -rf "$logs"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

heading() {
    current=$1 began=$SECONDS
    printf '\n%s==> [%s] %s%s\n' "$bold" "$(elapsed $SECONDS)" "$1" "$plain"
}

# The step that the last heading began is done.
passed() {
    figures+=("$(printf '%8s  %s' "$(elapsed $((SECONDS - began)))" "$current")")
}

# step NAME COMMAND…: the script ends where it fails, and where the set-up has failed meanwhile.
step() {
    if [[ $setup_pid ]] && ! kill -0 "$setup_pid" 2>/dev/null; then join_set_up; fi
    heading "$1"
    "${@:2}"
    passed
}

# bounded MINUTES COMMAND…: ends it, and its children, when it takes longer. It runs in the
# background, for only then does Ctrl-C reach this script at once.
bounded() {
    local minutes=$1 code=0
    shift
    timeout --kill-after=30s "${minutes}m" "$@" &
    local pid=$!
    trap 'kill -TERM "$pid" 2>/dev/null; exit 130' INT
    trap 'kill -TERM "$pid" 2>/dev/null; exit 143' TERM
    wait "$pid" || code=$?
    trap 'exit 130' INT
    trap 'exit 143' TERM
    if ((code == 124 || code == 137)); then
        echo "It took longer than $minutes minutes and was ended: $*" >&2
    fi
    return "$code"
}

# The numbers of passed and failed tests, in the output of test programs.
passes_in() { awk '/^test result: / { sum += $4 } END { print sum + 0 }' "$1"; }
failures_in() { awk '/^test result: / { sum += $6 } END { print sum + 0 }' "$1"; }

# tests NAME COMMAND…: counts passed and failed tests; the script goes on in any case. A few
# tests that fail run once more, by themselves. If they pass then, the run goes on, and its end names
# them: a test that waits in vain on a busy machine must be mended, but it must not cost a whole run.
tests() {
    local log=$logs/tests code=0 failed
    heading "$1"
    bounded 60 "${@:2}" 2>&1 | tee "$log" || code=$?
    passed
    figures[-1]+=": $(passes_in "$log") passed, $(failures_in "$log") failed"
    if ((code == 0)); then return; fi
    mapfile -t failed < <(sed -nE 's/^test (.*[^ ]) +\.\.\. FAILED$/\1/p' "$log" | sort -u)
    if ((code == 101 && ${#failed[@]} > 0 && ${#failed[@]} <= 3)); then
        heading "Once more: ${failed[*]}"
        code=0
        bounded 10 "${rust_tests[@]}" --lib --bins --tests -- --exact "${failed[@]}" 2>&1 |
            tee "$log" || code=$?
        passed
        if ((code == 0 && $(passes_in "$log") >= ${#failed[@]})); then
            unsteady+=("${failed[@]/#/$1: }")
            return
        fi
    fi
    failures+=("$1:")
    if ((${#failed[@]} == 0)); then failed=("exit code $code; see above"); fi
    failures+=("${failed[@]/#/  }")
}

# ---- Packages ----

as_root() {
    if ((EUID == 0)); then
        "$@"
    elif [[ ${CI:-} ]]; then
        sudo -n "$@"
    else
        sudo "$@"
    fi
}

has() { command -v "$1" >/dev/null 2>&1; }

# True if python3 can make a venv; Debian keeps a part of that in a package of its own.
can_venv() { python3 -c 'import venv, ensurepip' >/dev/null 2>&1; }

# Prints the packages that are missing.
missing_packages() {
    local missing=()
    [[ -x /usr/lib/rabbitmq/bin/rabbitmq-server || $rabbitmq || ${TESTKIT_RABBITMQ_BIN:-} ]] ||
        missing+=(rabbitmq-server)
    has redis-server || missing+=(redis-server)
    [[ -x /usr/sbin/nginx ]] || missing+=(nginx)
    [[ -x /usr/sbin/haproxy ]] || missing+=(haproxy)
    has nats-server || missing+=(nats-server)
    has promtool || missing+=(prometheus)
    [[ -x $chromium ]] || missing+=(chromium)
    has node || missing+=(nodejs)
    has npm || missing+=(npm)
    { has python3 && can_venv; } || missing+=(python3 python3-venv)
    { has perl && perl -MNet::Stomp -MJSON::PP -e 1 2>/dev/null; } || missing+=(perl libnet-stomp-perl)
    { has ruby && ruby -e 'require "stomp"' 2>/dev/null; } || missing+=(ruby ruby-stomp)
    has java || missing+=(default-jdk-headless)
    has curl || missing+=(curl)
    has ps || missing+=(procps)
    has cc || missing+=(gcc libc6-dev)
    echo "${missing[*]}"
}

install_packages() {
    local missing
    read -ra missing <<<"$(missing_packages)"
    if ((${#missing[@]} == 0)); then
        echo 'All packages are installed.'
        return
    fi
    if ! has apt-get; then
        echo "These are missing, and there is no apt-get to install them: ${missing[*]}" >&2
        return 1
    fi
    echo "Installing with apt-get: ${missing[*]}"
    [[ ! -d /run/systemd/system ]] || printf '%s\n' \
        'systemd will start the services of new packages. The tests do not use them; to stop them:' \
        '  sudo systemctl disable --now rabbitmq-server redis-server nats-server nginx haproxy prometheus'
    local apt=(as_root env DEBIAN_FRONTEND=noninteractive timeout --kill-after=30s 10m
        apt-get -y -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3)
    "${apt[@]}" update
    "${apt[@]}" install --no-install-recommends "${missing[@]}"
}

need_rust() {
    if has cargo && cargo fmt --version >/dev/null && cargo clippy --version >/dev/null; then
        cargo --version
        return
    fi
    echo 'Rust with rustfmt and clippy is missing: install it with rustup (https://rustup.rs).' >&2
    return 1
}

# done_for STAMP FILES…: true if STAMP was written for these very files.
done_for() { [[ -f $1 && $(cat "$1") == "$(sha256sum "${@:2}")" ]]; }

install_node_packages() {
    local folder=tests/js stamp=tests/js/node_modules/.installed
    local files=("$folder/package.json" "$folder/package-lock.json")
    if done_for "$stamp" "${files[@]}"; then
        echo 'Up to date.'
        return
    fi
    # No package needs its install script; those of stompjs 2.3.3 would compile C++.
    (cd "$folder" && bounded 5 npm ci --ignore-scripts --no-audit --no-fund) || return
    sha256sum "${files[@]}" >"$stamp"
}

install_python_packages() {
    local stamp=.venv/installed requirements=tests/py/requirements.txt
    # A venv whose Python was upgraded or removed is broken.
    if done_for "$stamp" "$requirements" && .venv/bin/python3 -c 'import pika, stomp'; then
        echo 'Up to date.'
        return
    fi
    bounded 2 python3 -m venv --clear .venv || return
    bounded 5 .venv/bin/pip install --quiet --disable-pip-version-check \
        --no-input --retries 3 --timeout 60 -r "$requirements" || return
    sha256sum "$requirements" >"$stamp"
}

# ---- Checks ----

# The files of this repository with these endings, committed or new.
files() { git ls-files --cached --others --exclude-standard -- "$@"; }

# Read from standard input, where the file's name and place say nothing: all are modules.
check_javascript() {
    local file
    while read -r file; do
        node --input-type=module --check - <"$file" || {
            echo "$file: see above" >&2
            return 1
        }
    done < <(files '*.js' '*.mjs')
    bounded 5 node --test tests/js/*.test.mjs
}

check_python() {
    files '*.py' | bounded 2 .venv/bin/python3 -c '
import ast, sys
for name in sys.stdin.read().splitlines():
    ast.parse(open(name, encoding="utf-8").read(), name)
'
}

check_shell() {
    local file
    while read -r file; do
        bash -n "$file" || return
    done < <(files '*.sh' .ci/run)
}

check_scripts() { check_shell && check_npm_lock && check_javascript && check_python; }

# A lock file with addresses would tie everybody to its author's registry.
check_npm_lock() {
    if grep -n '"resolved"' tests/js/package-lock.json; then
        echo 'tests/js/package-lock.json names a registry; run npm where .npmrc is: in tests/js' >&2
        return 1
    fi
}

# ---- Which RabbitMQ ----

# The versions to have: everything is tested on the first.
releases=(3.10 4.3)
if [[ $rabbitmq ]]; then
    releases=("$rabbitmq")
    unset TESTKIT_RABBITMQ_BIN
elif [[ ${TESTKIT_RABBITMQ_BIN:-} ]]; then
    releases=()
fi
# The tests on the second that are worth the time of every run.
differs_most=(broker_contract::amqp amqp_feeds e2e_restart e2e_nodes e2e_faults e2e_cluster
    e2e_rabbitmq_accounts)

install_rabbitmqs() {
    local release
    for release in "${releases[@]}"; do
        bounded 10 ./scripts/rabbitmq.sh "$release" >/dev/null || return
    done
}

# version_in FOLDER: of the RabbitMQ whose scripts it holds.
version_in() {
    local script
    script=$(readlink -f "$1/rabbitmq-server")
    if [[ $script == */rabbitmq_server-* ]]; then
        script=${script#*/rabbitmq_server-}
        echo "${script%%/*}"
    else
        cut -d' ' -f1 "$1/../version"
    fi
}

# Debian has them all; elsewhere it takes DEBIAN_MIRROR, and any of them serves.
other_rabbitmqs_are_optional() {
    [[ ! $rabbitmq && ! ${CI:-} && -x /usr/lib/rabbitmq/bin/rabbitmq-server ]]
}

# ---- Order of steps ----

set_up() {
    set -e
    install_packages
    echo && echo 'Packages for Node:'
    install_node_packages
    echo && echo 'Packages for Python:'
    install_python_packages
    echo && echo 'RabbitMQ:'
    install_rabbitmqs || other_rabbitmqs_are_optional
}

# It goes on in the background, in a process group of its own.
start_set_up() {
    # The compiler is needed at once, and sudo asks in the foreground.
    if ! has cc; then step 'Set-up: packages of the system' install_packages; fi
    if ((EUID != 0)) && [[ ! ${CI:-} && $(missing_packages) ]]; then sudo -v; fi
    set -m
    (trap - EXIT && began=$SECONDS && set_up && elapsed $((SECONDS - began)) >"$logs/took") \
        >"$logs/setup" 2>&1 &
    setup_pid=$!
    set +m
}

# Waits for the set-up, and reports it.
join_set_up() {
    local pid=$setup_pid code=0
    if [[ ! $pid ]]; then return; fi
    heading 'Wait for the set-up'
    wait "$pid" || code=$?
    setup_pid=''
    cat "$logs/setup"
    if ((code != 0)); then return "$code"; fi
    passed
    figures[-1]+=", which took $(<"$logs/took") in the background"
}

rust_tests=(cargo test --workspace --locked --no-fail-fast)

# With --examples dependencies have the features that they have for Clippy, whose work serves again.
document() {
    RUSTDOCFLAGS='-D warnings' bounded 20 \
        cargo doc --workspace --no-deps --locked --lib --bin stentor-bench --examples
}

# All test steps run what this compiles: the same packages, so with the same features.
compile() { bounded 45 "${rust_tests[@]}" --no-run; }

if [[ $setup == yes ]]; then
    step 'Rust' need_rust
    start_set_up
fi
if [[ $checks == no ]]; then
    join_set_up
    exit
fi
if [[ $checks == all ]]; then
    step 'Format' cargo fmt --all -- --check
    step 'Clippy' bounded 45 cargo clippy --workspace --all-targets --locked -- -D warnings
    step 'Documentation' document
    step 'Build programs and tests' compile
fi
join_set_up

folders=()
for release in "${releases[@]}"; do
    options=()
    if [[ $setup == no ]]; then options=(--cached); fi
    if folder=$(./scripts/rabbitmq.sh "${options[@]}" "$release"); then
        folders+=("$folder")
    elif other_rabbitmqs_are_optional; then
        skipped+=("RabbitMQ $release is not there, so nothing was tested on it; see above")
    else
        exit 1
    fi
done
export TESTKIT_RABBITMQ_BIN=${TESTKIT_RABBITMQ_BIN:-${folders[0]:-/usr/lib/rabbitmq/bin}}
name="RabbitMQ $(version_in "$TESTKIT_RABBITMQ_BIN")"
if [[ $strict == yes ]]; then name+=' (strict)'; fi

if [[ $checks == filter ]]; then
    tests "Rust tests on $name: ${filter[*]:-all}" \
        "${rust_tests[@]}" --lib --bins --tests -- "${filter[@]}"
    exit
fi
step 'Shell, JavaScript and Python: syntax, and tests of the page and of clients/js' check_scripts
tests "Rust tests on $name" "${rust_tests[@]}"
if ((${#folders[@]} > 1)); then
    export TESTKIT_RABBITMQ_BIN=${folders[1]}
    name="RabbitMQ $(version_in "$TESTKIT_RABBITMQ_BIN")"
    tests "Conformance on $name" "${rust_tests[@]}" --test conformance
    tests "${differs_most[*]} on $name" "${rust_tests[@]}" --test it -- "${differs_most[@]}"
fi
if cargo deny --version >/dev/null 2>&1; then
    step 'Licences, duplicates and sources of dependencies' \
        bounded 5 cargo deny check bans licenses sources
    # The database is a repository of RustSec's, which is not there for everybody.
    if bounded 2 cargo deny fetch db >"$logs/advisories" 2>&1; then
        step 'Advisories about dependencies' bounded 5 cargo deny check --disable-fetch advisories
    else
        tail -n 3 "$logs/advisories"
        skipped+=("RustSec's database cannot be had: advisories about dependencies not checked")
    fi
else
    skipped+=('cargo-deny is not installed: licences, sources and advisories of dependencies not checked')
fi
