#!/usr/bin/env bash
# Writes the bill of materials of a program. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'EOF'
Writes down what is inside of a program: a bill of materials (SBOM) in CycloneDX 1.5, as JSON.

  ./scripts/sbom.sh                       of stentor, to standard output
  ./scripts/sbom.sh auth-hook             of another package of this workspace
  ./scripts/sbom.sh --target TRIPLE …     for this target; default: the one of this machine

It lists each crate that is compiled into the program, or that helps to build it (scope "excluded"),
with version, licence, source and, from Cargo.lock, checksum; who uses whom; and the JavaScript that
the demo's page brings along. The same Cargo.lock gives the same bytes. It needs cargo and python3,
and asks no network where the crates are there already (`cargo fetch --locked`).
EOF
}

package=stentor target=''
while (($#)); do
    case $1 in
        -h | --help) usage && exit ;;
        --target)
            target=${2:?--target takes a triple, such as x86_64-unknown-linux-gnu}
            shift
            ;;
        -*)
            echo "There is no option $1; see ./scripts/sbom.sh --help" >&2
            exit 2
            ;;
        *) package=$1 ;;
    esac
    shift
done
if [[ ! $target ]]; then target=$(rustc -vV | sed -n 's/^host: //p'); fi

metadata=$(mktemp)
trap 'rm -f "$metadata"' EXIT
cargo metadata --format-version 1 --locked --filter-platform "$target" >"$metadata"
python3 scripts/sbom.py "$metadata" "$package" "$target"
