#!/usr/bin/env bash
# Installs what the tests need, then runs all of them. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'EOF'
Runs every check of this repository, after installing what is missing for it.

  ./scripts/test.sh              everything; this is what CI runs
  ./scripts/test.sh -- FILTER…   only the Rust tests whose names contain FILTER; all that
                                 stands behind `--` goes to the test programs
  ./scripts/test.sh --setup      only install
  ./scripts/test.sh --no-setup   install nothing
  ./scripts/test.sh --help

Installed are, each only if it is missing:
  with apt-get (through sudo, unless you are root): rabbitmq-server, redis-server, nats-server, nginx,
  haproxy, chromium, nodejs, npm, python3-venv, libnet-stomp-perl, ruby-stomp, curl, procps,
  a C compiler; into this folder: tests/js/node_modules and .venv.
Rust itself is yours to install; see rust-version in Cargo.toml.

On a machine with systemd the packages of RabbitMQ, Redis, NATS, nginx and HAProxy start their
services. The tests use none of them: they start servers of their own, on free ports, with folders
of their own, and end them.

Environment:
  CARGO_TARGET_DIR       where Cargo builds
  CHROMIUM               Chromium's program, if it is not /usr/bin/chromium
  TESTKIT_RABBITMQ_BIN   the folder of RabbitMQ's scripts, if it is not /usr/lib/rabbitmq/bin
EOF
}

setup=yes checks=yes
filter=()
while (($#)); do
    case $1 in
        -h | --help) usage && exit ;;
        --setup) checks=no ;;
        --no-setup) setup=no ;;
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

# Nothing here asks anything, so nothing may wait for an answer.
exec </dev/null
rabbitmq_bin=${TESTKIT_RABBITMQ_BIN:-/usr/lib/rabbitmq/bin}
chromium=${CHROMIUM:-/usr/bin/chromium}

# A client is a file; many clients are many files.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true

# ---- How steps are shown, bounded and counted ----

bold='' red='' green='' plain=''
if [[ -t 1 ]]; then bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'; fi
steps=0
current='the beginning'

elapsed() { printf '%dm%02ds' $((SECONDS / 60)) $((SECONDS % 60)); }

finish() {
    local code=$?
    trap - EXIT
    if ((code == 0)); then
        printf '\n%sOK: %d steps passed in %s%s\n' "$green" "$steps" "$(elapsed)" "$plain"
    else
        printf '\n%sFAILED: %s (exit code %d, after %s)%s\n' \
            "$red" "$current" "$code" "$(elapsed)" "$plain" >&2
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

heading() {
    current=$1
    steps=$((steps + 1))
    printf '\n%s==> [%s] %s%s\n' "$bold" "$(elapsed)" "$1" "$plain"
}

# bounded MINUTES COMMAND…: ends it, and what it started, when it takes longer. It runs in the
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

# ---- What has to be there ----

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

# Whether python3 can make a venv; Debian keeps a part of that in a package of its own.
can_venv() { python3 -c 'import venv, ensurepip' >/dev/null 2>&1; }

install_packages() {
    local missing=()
    [[ -x $rabbitmq_bin/rabbitmq-server ]] || missing+=(rabbitmq-server)
    has redis-server || missing+=(redis-server)
    [[ -x /usr/sbin/nginx ]] || missing+=(nginx)
    [[ -x /usr/sbin/haproxy ]] || missing+=(haproxy)
    has nats-server || missing+=(nats-server)
    [[ -x $chromium ]] || missing+=(chromium)
    has node || missing+=(nodejs)
    has npm || missing+=(npm)
    { has python3 && can_venv; } || missing+=(python3 python3-venv)
    { has perl && perl -MNet::Stomp -MJSON::PP -e 1 2>/dev/null; } || missing+=(perl libnet-stomp-perl)
    { has ruby && ruby -e 'require "stomp"' 2>/dev/null; } || missing+=(ruby ruby-stomp)
    has curl || missing+=(curl)
    has ps || missing+=(procps)
    has cc || missing+=(gcc libc6-dev)
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
        '  sudo systemctl disable --now rabbitmq-server redis-server nats-server nginx haproxy'
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

# done_for STAMP FILES…: whether STAMP was written for these very files.
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

# ---- What is checked ----

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

# A lock file with addresses would tie everybody to the registry of whoever wrote it.
check_npm_lock() {
    if grep -nE '"resolved"|https?://' tests/js/package-lock.json; then
        echo 'tests/js/package-lock.json names a registry; run npm where .npmrc is: in tests/js' >&2
        return 1
    fi
}

if [[ $setup == yes ]]; then
    heading 'Set-up: packages of the system' && install_packages
    heading 'Set-up: Rust' && need_rust
    heading 'Set-up: packages for Node' && install_node_packages
    heading 'Set-up: packages for Python' && install_python_packages
fi
if [[ $checks == no ]]; then exit; fi
if [[ $checks == filter ]]; then
    heading "Rust tests: ${filter[*]:-all}"
    bounded 45 cargo test --workspace --locked --no-fail-fast --lib --bins --tests -- "${filter[@]}"
    exit
fi
heading 'Format' && cargo fmt --all -- --check
heading 'Shell, JavaScript and Python: syntax, and tests of the page' &&
    check_shell && check_npm_lock && check_javascript && check_python
heading 'Clippy' && bounded 45 cargo clippy --workspace --all-targets --locked -- -D warnings
heading 'Build programs and tests' &&
    bounded 45 cargo build --workspace --bins --locked &&
    bounded 45 cargo test --workspace --locked --no-run
heading 'Rust tests' && bounded 45 cargo test --workspace --locked --no-fail-fast
heading 'Documentation' &&
    RUSTDOCFLAGS='-D warnings' bounded 20 cargo doc --workspace --no-deps --locked
if cargo deny --version >/dev/null 2>&1; then
    heading 'Licences, duplicates and sources of dependencies' &&
        bounded 5 cargo deny check bans licenses sources
else
    echo && echo 'cargo-deny is not installed: licences and sources of dependencies not checked.'
fi
