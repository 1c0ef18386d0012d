#!/usr/bin/env bash
# Installs, starts, upgrades, removes and purges the Debian package on this machine. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    cat <<'EOF'
Installs, starts, upgrades, removes and purges the Debian package on this machine, as root.

  ./packaging/deb-test.sh [PROGRAM]     PROGRAM: default target/release/stentor

It refuses where a package or a user `stentor` is there already, and leaves nothing behind. No systemd
has to run: the program is started as the unit's ExecStart says, as its user, without capabilities.
It needs dpkg-dev, binutils, curl, procps and python3.
EOF
    exit
fi
program=${1:-${CARGO_TARGET_DIR:-target}/release/stentor}
if ((EUID)); then echo 'Run it as root: it installs a package.' >&2 && exit 1; fi
if dpkg-query -s stentor >/dev/null 2>&1 || getent passwd stentor >/dev/null; then
    echo 'stentor is installed on this machine, or its user is there. Purge it first.' >&2
    exit 1
fi

work=$(mktemp -d)
pid=''
finish() {
    local code=$?
    trap - EXIT
    if [[ $pid ]]; then kill "$pid" 2>/dev/null || true; fi
    if dpkg-query -s stentor >/dev/null 2>&1; then dpkg --purge stentor >/dev/null 2>&1 || true; fi
    if ((code)); then cat "$work/log" 2>/dev/null || true; fi
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT

passed=0
# holds WORDS COMMAND…
holds() {
    if "${@:2}"; then
        passed=$((passed + 1))
        echo "ok: $1"
    else
        echo "FAILED: $1" >&2
        exit 1
    fi
}
fails() { ! "$@"; }
owner_is() { [[ $(stat -c '%U:%G %a' "$1") == "$2" ]]; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# As the unit does it: its user, its command, its working directory.
start() {
    local command
    command=$(sed -n 's/^ExecStart=//p' /lib/systemd/system/stentor.service)
    # shellcheck disable=SC2086 # The unit's words are words.
    (cd / && exec env -i PATH=/usr/bin:/bin setpriv --reuid stentor --regid stentor --clear-groups \
        --no-new-privs --inh-caps=-all --bounding-set=-all $command) >"$work/log" 2>&1 &
    pid=$!
}
is_ready() {
    local deadline=$((SECONDS + 30))
    until curl -fsS -o /dev/null "http://127.0.0.1:$admin/readyz" 2>/dev/null; do
        if ((SECONDS > deadline)) || ! kill -0 "$pid"; then return 1; fi
        sleep 0.1
    done
}
stop() {
    local code=0
    kill -TERM "$pid"
    wait "$pid" || code=$?
    pid=''
    return "$code"
}

export DEB_COMPRESSION=gzip
old=$(./packaging/deb.sh --program "$program" --version 0.0.1-1 --out "$work")
new=$(./packaging/deb.sh --program "$program" --version 0.0.1-2 --out "$work")
configuration=/etc/stentor/stentor.toml

dpkg -i "$old" >"$work/installed" 2>&1
holds 'the package is installed' grep -q 'ok installed' <(dpkg-query -s stentor)
holds 'it says what to configure' grep -q 'Set \[broker\] url' "$work/installed"
holds 'the user is a system user without a shell' grep -q ':/nonexistent:/usr/sbin/nologin$' <(getent passwd stentor)
holds 'the configuration is the group'"'"'s to read' owner_is "$configuration" 'root:stentor 640'
holds 'its folder too' owner_is /etc/stentor 'root:stentor 750'
holds 'nobody else reads it' fails setpriv --reuid nobody --regid nogroup --clear-groups cat "$configuration" 2>/dev/null
holds 'the unit is enabled' test -e /etc/systemd/system/multi-user.target.wants/stentor.service
holds 'the packed files are whole' test -z "$(dpkg --verify stentor)"

holds 'it has a page for man' test -s /usr/share/man/man1/stentor.1.gz -a -s /usr/share/man/man1/stentor-serve.1.gz
holds 'and completions for shells' grep -q 'ctl' /usr/share/bash-completion/completions/stentor

ends_with_2() {
    local code=0
    wait "$pid" || code=$?
    pid=''
    ((code == 2))
}
start
holds 'an empty configuration ends with 2, so that systemd does not try again' ends_with_2

admin=$(free_port)
cat >>"$configuration" <<EOF

[listen]
http = "127.0.0.1:$(free_port)"
stomp = "127.0.0.1:$(free_port)"
admin = "127.0.0.1:$admin"
EOF
sed -i 's|^#url = .*|url = "embedded:"|; s|^#hook = |hook = |' "$configuration"
holds 'the check takes the edited configuration' stentor config --check "$configuration"
start
holds 'it serves as the unit would start it' is_ready
says_ready() { stentor ctl --url "http://127.0.0.1:$admin" ready >/dev/null; }
holds 'stentor ctl ready says so' says_ready
holds 'as its own user' grep -q '^stentor$' <(ps -o user= -p "$pid")

dpkg -i "$new" >"$work/upgraded" 2>&1
holds 'an upgrade asks nothing and keeps the edited configuration' grep -q 'embedded:' "$configuration"
holds 'the new version is there' grep -q '^Version: 0.0.1-2' <(dpkg-query -s stentor)
holds 'the configuration'"'"'s owner and mode are kept' owner_is "$configuration" 'root:stentor 640'
holds 'the old program still serves' is_ready
cp "$configuration" "$work/sound"
# Its keys count only where systemd runs.
echo 'STENTOR__BROKER__URL=embedded:' >/etc/stentor/environment
echo 'colour = 3' >>"$configuration"
upgrades() { dpkg -i "$new" >"$work/upgraded" 2>&1; }
holds 'a version that does not take the configuration is installed all the same' upgrades
holds 'it says so' grep -q 'not restarted' "$work/upgraded"
holds 'and the old program still serves' is_ready
rm /etc/stentor/environment
# A file that root alone can read is none that the node can read.
secret=/etc/stentor/secret
(umask 077 && printf '%032d' 0 >"$secret")
cp "$work/sound" "$configuration"
printf '[auth.jwt]\nsecret_file = "%s"\naudiences = ["push"]\n' "$secret" >>"$configuration"
holds 'root could serve with it' stentor config --check "$configuration"
holds 'a configuration with a file of root alone is installed beside' upgrades
holds 'its user cannot serve with it, says the upgrade' grep -q 'not restarted' "$work/upgraded"
rm "$secret"
cp "$work/sound" "$configuration"
holds 'a sound one is upgraded' upgrades
holds 'without a word' fails grep -q 'not restarted' "$work/upgraded"
holds 'it ends with 0 at SIGTERM' stop
start
holds 'the new one serves' is_ready
holds 'and ends with 0' stop

dpkg --remove stentor >/dev/null 2>&1
holds 'a removal takes the program' test ! -e /usr/bin/stentor
holds 'and leaves the configuration' test -e "$configuration"
dpkg -i "$new" >/dev/null 2>&1
holds 'installed again, the unit is enabled and not masked' test -e /etc/systemd/system/multi-user.target.wants/stentor.service -a ! -e /etc/systemd/system/stentor.service

dpkg --purge stentor >/dev/null 2>&1
holds 'a purge takes the configuration' test ! -e /etc/stentor
holds 'and the user' fails getent passwd stentor
left=$(find /etc /lib/systemd /usr/bin /usr/share /var/lib -name '*stentor*' 2>/dev/null || true)
holds "nothing is left: $left" test -z "$left"
echo "$passed passed, 0 failed"
