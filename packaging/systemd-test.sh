#!/usr/bin/env bash
# Boots a Debian of its own under systemd, and has systemd run the Debian package there. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'EOT'
Boots a Debian of its own under systemd, in a namespace (systemd-nspawn), and has systemd run the Debian
package there: start, readiness, sandbox, reload, watchdog, stop, upgrade, removal. As root.

  ./packaging/systemd-test.sh [--root FOLDER] [PROGRAM]

  PROGRAM         default: target/release/stentor. It runs on Debian 12's C library
  --root FOLDER   a Debian 12 with systemd and curl, to boot; it is changed. Default: one is fetched, with
                  debootstrap, and removed in the end

It needs systemd-container and debootstrap, and changes nothing of this machine. The machine itself need
not run systemd. It takes about a minute, half of it waiting for the watchdog.
EOT
}

root=''
program=${CARGO_TARGET_DIR:-target}/release/stentor
while (($#)); do
    case $1 in
        -h | --help) usage && exit ;;
        --root) root=${2:?--root takes a folder} && shift ;;
        *) program=$1 ;;
    esac
    shift
done
if ((EUID)); then echo 'Run it as root: it boots a system.' >&2 && exit 1; fi
for tool in systemd-nspawn debootstrap nsenter; do
    if ! command -v "$tool" >/dev/null; then
        echo "$tool is missing: apt-get install systemd-container debootstrap util-linux" >&2
        exit 1
    fi
done

work=$(mktemp -d)
nspawn=''
init=''
finish() {
    local code=$?
    trap - EXIT
    if [[ $init ]]; then
        if ((code)); then inside journalctl -u stentor --no-pager -n 40 >&2 || true; fi
        inside systemctl poweroff || true
        for _ in {1..100}; do kill -0 "$nspawn" 2>/dev/null && sleep 0.1; done
    fi
    if [[ $nspawn ]]; then kill "$nspawn" 2>/dev/null || true; fi
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT
inside() { nsenter -t "$init" -m -u -i -n -p -- "$@"; }

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
fails() { ! "$@" 2>/dev/null; }
# within SECONDS COMMAND…
within() {
    local deadline=$((SECONDS + $1))
    until "${@:2}" >/dev/null 2>&1; do
        if ((SECONDS > deadline)); then return 1; fi
        sleep 0.2
    done
}
property() { inside systemctl show -P "$1" stentor; }
is() { [[ $(property "$1") == "$2" ]]; }
is_another() { [[ $(property MainPID) != 0 && $(property MainPID) != "$1" ]]; }
logged() { grep -qF -- "$1" <(inside journalctl -u stentor --no-pager -o cat); }

if [[ ! $root ]]; then
    root=$work/root
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,curl bookworm "$root" >"$work/log" ||
        { cat "$work/log" >&2 && exit 1; }
fi
export DEB_COMPRESSION=gzip
old=$(./packaging/deb.sh --program "$program" --version 0.0.1-1 --out "$work")
new=$(./packaging/deb.sh --program "$program" --version 0.0.1-2 --out "$work")
cp "$old" "$root/root/old.deb"
cp "$new" "$root/root/new.deb"

systemd-nspawn -D "$root" --register=no --keep-unit --private-network --console=pipe --boot \
    >"$work/boot" 2>&1 </dev/null &
nspawn=$!
# The process that systemd-nspawn starts as number 1 is its only child.
within 20 pgrep -P "$nspawn"
init=$(pgrep -P "$nspawn" | head -1)
holds 'systemd boots' within 30 inside systemctl is-system-running

inside dpkg -i /root/old.deb >/dev/null 2>&1
holds 'the package does not start what is not configured' is ActiveState inactive
holds 'started all the same, it fails' fails inside systemctl start stentor
holds 'with exit code 2, and is not tried again' is ExecMainStatus 2
holds 'it says why in the journal' logged 'error[missing-key]: [broker] url'

configuration=$root/etc/stentor/stentor.toml
cat >"$configuration" <<'EOT'
[broker]
url = "embedded:"
[auth]
hook = "http://127.0.0.1:8000/auth"
[log]
level = "info"
EOT
inside systemctl start stentor
# `Type=notify`: the command above comes back when the program says that it is ready.
holds 'it is ready when systemd says so' inside curl -fsS -o /dev/null http://127.0.0.1:15680/readyz
holds 'it is active' is SubState running
holds 'as its user' is User stentor
pid=$(property MainPID)
status() { inside grep -qE "$1" "/proc/$pid/status"; }
holds 'without capabilities' status '^CapEff:\s0+$'
holds 'nor a way to others' status '^NoNewPrivs:\s1$'
holds 'with a filter of system calls' status '^Seccomp:\s2$'
exposure=$(inside systemd-analyze security --no-pager stentor | sed -n 's/^→ Overall exposure level for [^:]*: //p')
holds "its exposure is small ($exposure)" grep -q '^1\.' <<<"$exposure"

sed -i 's/level = "info"/level = "debug"/' "$configuration"
inside systemctl reload stentor
holds 'a reload reads the configuration again' within 10 logged 'configuration changed key="[log] level"'
holds 'in the same process' is MainPID "$pid"
cp "$configuration" "$work/sound"
echo 'colour = 3' >>"$configuration"
holds 'the reload of a wrong one fails' fails inside systemctl reload stentor
holds 'and the process goes on' is MainPID "$pid"
cp "$work/sound" "$configuration"

# The shell's own kill, for a small system has no other.
inside sh -c 'kill -STOP "$0"' "$pid"
holds 'one that hangs is started anew' within 60 is_another "$pid"
holds 'by the watchdog' logged "Failed with result 'watchdog'"
holds 'and is ready' within 30 is SubState running

begun=$SECONDS
inside systemctl stop stentor
holds "a stop is in time ($((SECONDS - begun)) s)" test $((SECONDS - begun)) -lt 30
holds 'and clean' is Result success
# A file that root alone can read, and no variables: the check must be its user's all the same.
cp "$configuration" "$work/sound"
inside systemctl start stentor
pid=$(property MainPID)
(umask 077 && printf '%032d' 0 >"$root/etc/stentor/secret")
printf '[auth.jwt]\nsecret_file = "/etc/stentor/secret"\naudiences = ["push"]\n' >>"$configuration"
inside dpkg -i /root/new.deb >"$work/upgraded" 2>&1
holds 'an upgrade with a file of root alone leaves the process alone' is MainPID "$pid"
holds 'and says so' grep -q 'not restarted' "$work/upgraded"
rm "$root/etc/stentor/secret"
cp "$work/sound" "$configuration"
inside systemctl stop stentor
# A key stands where only systemd reads it.
sed -i '/^url = /d' "$configuration"
echo 'STENTOR__BROKER__URL=embedded:' >"$root/etc/stentor/environment"
chmod 600 "$root/etc/stentor/environment"
cp "$configuration" "$work/sound"
inside systemctl start stentor
pid=$(property MainPID)
echo 'colour = 3' >>"$configuration"
inside dpkg -i /root/new.deb >"$work/upgraded" 2>&1
holds 'an upgrade that does not take the configuration leaves the process alone' is MainPID "$pid"
holds 'which serves' inside curl -fsS -o /dev/null http://127.0.0.1:15680/readyz
holds 'and says so' grep -q 'not restarted' "$work/upgraded"
cp "$work/sound" "$configuration"
inside dpkg -i /root/new.deb >/dev/null 2>&1
holds 'an upgrade restarts it' within 30 is_another "$pid"
holds 'into a running one' within 30 is SubState running
inside dpkg --remove stentor >/dev/null 2>&1
holds 'a removal stops it' fails inside systemctl is-active --quiet stentor
inside dpkg --purge stentor >/dev/null 2>&1
holds 'a purge takes the user' fails inside getent passwd stentor
echo "$passed passed, 0 failed"
