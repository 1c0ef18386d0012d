#!/bin/sh
# Installs Stentor's program from a release. See --help.
#
# All of it is in functions, and the last line calls them: a download that is cut off does nothing.
set -eu

# Where releases are; the release workflow writes it here.
RELEASES='@RELEASES@'
# The version that this script came with; the workflow writes it here, too.
VERSION='@VERSION@'

usage() {
    cat <<'HELP'
Installs Stentor's program from a release, after its checksum was compared.

  curl -fsSL ADDRESS/install.sh | sh
  curl -fsSL ADDRESS/install.sh | sh -s -- --to "$HOME/.local/bin"

  --version VERSION   which release, such as 0.2.0; default: the one that this script came with
  --to FOLDER         default: /usr/local/bin for root, else ~/.local/bin
  --from ADDRESS      where releases are: ADDRESS/vVERSION/stentor-VERSION-MACHINE-linux.tar.gz, and
                      ADDRESS/vVERSION/SHA256SUMS beside it
  --help

It needs Linux on x86_64 or aarch64, curl or wget, tar, and sha256sum. It writes the program `stentor`
and nothing else: no service, no user, no configuration. For those take the Debian package. An older
program in the folder is replaced, also while it runs; restart it then. To remove Stentor, delete the
program.
HELP
}

fail() {
    printf 'install.sh: %s\n' "$1" >&2
    exit 1
}

has() {
    command -v "$1" >/dev/null 2>&1
}

# fetch ADDRESS FILE
fetch() {
    if has curl; then
        curl -fsSL --retry 3 -o "$2" "$1"
    elif has wget; then
        wget -q -O "$2" "$1"
    else
        fail 'neither curl nor wget is here: install one of them.'
    fi || fail "could not fetch $1: is the version right, and the network there?"
}

main() {
    from=$RELEASES version=$VERSION to=''
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help)
                usage
                exit 0
                ;;
            --version | --to | --from)
                [ $# -ge 2 ] || fail "$1 takes a value; see --help"
                case $1 in
                    --version) version=${2#v} ;;
                    --to) to=$2 ;;
                    --from) from=${2%/} ;;
                esac
                shift
                ;;
            *) fail "there is no option $1; see --help" ;;
        esac
        shift
    done
    # In a copy of the repository they are not filled in.
    case $from in @*) fail 'name the releases by --from ADDRESS: this copy is of no release.' ;; esac
    case $version in @*) fail 'name the version by --version VERSION: this copy is of no release.' ;; esac
    [ "$(uname -s)" = Linux ] || fail "there is no program for $(uname -s): build it from source."
    case $(uname -m) in
        x86_64 | amd64) machine=x86_64 ;;
        aarch64 | arm64) machine=aarch64 ;;
        *) fail "there is no program for $(uname -m): build it from source." ;;
    esac
    for tool in tar sha256sum; do
        has "$tool" || fail "$tool is missing: install it."
    done
    if [ -z "$to" ]; then
        if [ "$(id -u)" = 0 ]; then
            to=/usr/local/bin
        else
            to=${HOME:?}/.local/bin
        fi
    fi

    name=stentor-$version-$machine-linux
    work=$(mktemp -d)
    # shellcheck disable=SC2064 # The folder of now.
    trap "rm -rf '$work'" EXIT
    trap 'exit 1' HUP INT TERM
    fetch "$from/v$version/SHA256SUMS" "$work/SHA256SUMS"
    fetch "$from/v$version/$name.tar.gz" "$work/$name.tar.gz"
    # Of this file alone: sha256sum would look for the others, too.
    grep -E "^[0-9a-f]{64} [ *]$name\.tar\.gz\$" "$work/SHA256SUMS" >"$work/sum" ||
        fail "SHA256SUMS has no line for $name.tar.gz."
    (cd "$work" && sha256sum -c sum >/dev/null 2>&1) ||
        fail "$name.tar.gz is not what SHA256SUMS says: nothing was installed."
    tar -xzf "$work/$name.tar.gz" -C "$work" "$name/stentor" ||
        fail "$name.tar.gz has no $name/stentor."
    "$work/$name/stentor" --version >/dev/null ||
        fail "the program does not run here: set TMPDIR to a folder for programs, or build it from source."

    mkdir -p "$to" || fail "cannot make $to: name another folder by --to, or run this by sudo."
    # In one step, so that nobody meets half a program, and one that runs is not written to.
    if ! { cp "$work/$name/stentor" "$to/.stentor.new" && chmod 755 "$to/.stentor.new" &&
        mv -f "$to/.stentor.new" "$to/stentor"; }; then
        rm -f "$to/.stentor.new"
        fail "cannot write to $to: name another folder by --to, or run this by sudo."
    fi
    printf 'Installed %s as %s/stentor.\n' "$("$to/stentor" --version)" "$to"
    case :$PATH: in
        *:"$to":*) ;;
        *) printf 'It is not in your PATH:\n  export PATH="%s:%s"\n' "$to" '$PATH' ;;
    esac
    printf 'Try it:\n  stentor demo\nBegin a configuration:\n  stentor config --default > stentor.toml\n'
}

main "$@"
