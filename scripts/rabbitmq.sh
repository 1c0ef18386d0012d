#!/usr/bin/env bash
# Lays out a RabbitMQ of another version beside the system's. See --help.
set -euo pipefail

usage() {
    cat <<'USAGE'
Lays out a RabbitMQ in a folder of its own, and prints the folder that TESTKIT_RABBITMQ_BIN takes.

  ./scripts/rabbitmq.sh 3.10           of Debian 12, bookworm; the system's own, if it is a 3.10
  ./scripts/rabbitmq.sh 4.0            of Debian 13, trixie
  ./scripts/rabbitmq.sh 4.3            of Debian's sid: 4.3, or whatever is newer there today
  ./scripts/rabbitmq.sh --fresh 4.3    lay it out anew; sid moves
  ./scripts/rabbitmq.sh --cached 4.3   only if it is there already; fail otherwise
  ./scripts/rabbitmq.sh --help

Use it so:

  TESTKIT_RABBITMQ_BIN=$(./scripts/rabbitmq.sh 4.3) cargo test --test it -- broker_contract
  ./scripts/test.sh --rabbitmq 4.3     does the same for all checks

RabbitMQ, Erlang and the C library they were built for are downloaded by apt-get from the mirror
that this machine uses, checked by Debian's keys, and unpacked: some 60 MB, 130 MB on disk, a
quarter of a minute. Nothing is installed and nothing is mounted; root is not needed. The programs
are started by the C library's own loader, so they run on a machine whose C library is older. What
is laid out once is used again; the file `version` beside the printed folder says what it is.

Progress goes to standard error, the folder to standard output.

Environment:
  STENTOR_CACHE   where it is kept (${XDG_CACHE_HOME:-~/.cache}/stentor)
  DEBIAN_MIRROR   where Debian's packages come from, such as http://HOST/debian; needed only if
                  apt's own sources name none
USAGE
}

say() { echo "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

fresh=no cached=no wanted=''
for argument; do
    case $argument in
        -h | --help) usage && exit ;;
        --fresh) fresh=yes ;;
        --cached) cached=yes ;;
        3.10 | 4.0 | 4.3) wanted=$argument ;;
        *)
            say "There is no option or version $argument; see ./scripts/rabbitmq.sh --help"
            exit 2
            ;;
    esac
done
case $wanted in
    3.10) suite=bookworm ;;
    4.0) suite=trixie ;;
    4.3) suite=sid ;;
    *)
        say 'Which version? See ./scripts/rabbitmq.sh --help'
        exit 2
        ;;
esac

if [[ $wanted == 3.10 ]]; then
    system=$(readlink -f /usr/lib/rabbitmq/bin/rabbitmq-server || true)
    if [[ $system == */rabbitmq_server-3.10.* ]]; then
        system=${system#*/rabbitmq_server-}
        say "RabbitMQ ${system%%/*} is the system's own."
        echo /usr/lib/rabbitmq/bin
        exit
    fi
fi

for program in apt-get apt-cache dpkg-deb flock; do
    command -v "$program" >/dev/null ||
        fail "RabbitMQ $wanted is unpacked from Debian's packages, and this machine has no $program."
done

cache=${STENTOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/stentor}
root=$cache/rabbitmq-$wanted
mkdir -p "$cache" 2>/dev/null || true
[[ -d $cache && -w $cache ]] ||
    fail "$cache cannot be written; set STENTOR_CACHE to a folder that can."
cache=$(cd "$cache" && pwd -P)
root=$cache/rabbitmq-$wanted

# Two at the same time wait for each other. The file `version` is written last: a folder without
# it is half made. One that was moved does not run, for its scripts name the place.
exec 9>"$root.lock"
flock -n 9 || say "Another ./scripts/rabbitmq.sh works on RabbitMQ $wanted; waiting for it."
flock 9
if [[ $fresh == no && -f $root/version ]] && grep -qF "'$root/" "$root/bin/erl"; then
    say "RabbitMQ $(<"$root/version"), laid out before in $root"
    echo "$root/bin"
    exit
fi
[[ $cached == no ]] ||
    fail "RabbitMQ $wanted is not laid out yet: run ./scripts/rabbitmq.sh $wanted"

rm -rf "$root"
work=$root/work
finish() {
    local code=$?
    if ((code != 0)); then rm -rf "$root"; fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir -p "$work"/{state/lists/partial,cache/archives/partial,packages}

# The first of apt's own sources that is Debian's main archive.
# shellcheck disable=SC2016 # apt-get puts the address there
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    grep -m1 -E '/debian/?$' || true)}
[[ $mirror ]] || fail "None of apt's sources is Debian's archive: set DEBIAN_MIRROR, such as http://HOST/debian"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
[[ -f $keys ]] || fail "$keys is missing; install the package debian-archive-keyring."
echo "deb [signed-by=$keys] $mirror $suite main" >"$work/sources.list"

# apt-get with a state of its own, which knows of no installed package. The machine's settings,
# such as a proxy, hold.
: >"$work/status"
apt=(-qq
    -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
    -o Dir::State="$work/state" -o Dir::State::status="$work/status"
    -o Dir::Cache="$work/cache" -o Dir::Log="$work"
    -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none -o Acquire::Retries=3
    -o APT::Update::Error-Mode=any
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
    -o APT::Sandbox::User=root -o APT::Get::List-Cleanup=false)
say "Reading Debian's $suite from $mirror"
apt-get "${apt[@]}" update >&2 || fail "Debian's $suite cannot be read from $mirror; see above."

package=$(apt-cache "${apt[@]}" policy rabbitmq-server | sed -n 's/ *Candidate: //p')
version=${package%-*}
[[ $package && $package != '(none)' ]] || fail "Debian's $suite has no rabbitmq-server at $mirror."
# Only sid moves.
if [[ $version != "$wanted".* ]]; then
    [[ $suite == sid && $(printf '%s\n' "$wanted" "$version" | sort -V | head -1) == "$wanted" ]] ||
        fail "Debian's $suite has RabbitMQ $version, not $wanted."
    say "Debian's sid has moved on: this is RabbitMQ $version."
fi

# Its dependencies, without those that only an installed system needs.
packages=$(apt-get "${apt[@]}" install --simulate --no-install-recommends rabbitmq-server |
    awk '/^Inst / && $2 ~ /^(rabbitmq-server|erlang-.*|lib.*)$/ { print $2 }')
say "Downloading RabbitMQ $version: $(wc -l <<<"$packages") packages"
# shellcheck disable=SC2086 # a list of names
(cd "$work/packages" && apt-get "${apt[@]}" download $packages >&2) ||
    fail "The packages cannot be downloaded from $mirror; see above."
say 'Unpacking'
for file in "$work"/packages/*.deb; do
    dpkg-deb --fsys-tarfile "$file" |
        tar -x -C "$root" --no-same-owner --exclude='./usr/share/*' --exclude='./var/*'
done

# Programs name the system's loader, whose C library may be older than what they need. So each
# becomes a script that calls the loader that came with it, by a link that bears the program's name,
# for `ps`.
erlang=$root/usr/lib/erlang
loader=$(find "$root" -name 'ld-linux*.so.*' -print -quit)
[[ $loader && -d $erlang ]] || fail "RabbitMQ $version came without Erlang or a C library."
libraries=$(find "$root" -path '*/*-linux-gnu/*' -name '*.so.*' -printf '%h\n' | sort -u | paste -sd:)
mkdir "$root/loader"
while read -r program; do
    if [[ $(head -c4 "$program" | tr -d '\0') != $'\x7fELF' ]]; then continue; fi
    mv "$program" "$program.elf"
    ln -sf "$loader" "$root/loader/${program##*/}"
    cat >"$program" <<SCRIPT
#!/bin/sh
exec '$root/loader/${program##*/}' --argv0 "\$0" --library-path '$libraries' '$program.elf' "\$@"
SCRIPT
    chmod +x "$program"
done < <(find "$erlang" -type f -perm -u+x ! -name '*.so')
sed -i "s|=/usr/lib/erlang\$|='$erlang'|" "$erlang"/bin/erl "$erlang"/erts-*/bin/erl

mkdir "$root/bin"
for program in "$root"/usr/lib/rabbitmq/bin/* "$erlang"/bin/{erl,epmd}; do
    script=$root/bin/${program##*/}
    cat >"$script" <<SCRIPT
#!/bin/sh
PATH='$erlang/bin':"\$PATH" exec '$program' "\$@"
SCRIPT
    chmod +x "$script"
done
rm -rf "$work"

# It starts, and finds its libraries.
"$root/bin/erl" -noinput -eval '{ok, _} = application:ensure_all_started(ssl), halt(0).' >&2 ||
    fail "Erlang does not start here; see above."
erlang_version=$("$root/bin/erl" -noinput -eval \
    'io:put_chars(erlang:system_info(otp_release)), halt(0).')
echo "$version (Debian $suite, package $package, Erlang $erlang_version)" >"$root/version"
say "RabbitMQ $(<"$root/version") in $root"
echo "$root/bin"
