#!/usr/bin/env bash
# Packs a program that is built already for a release. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'HELP'
Packs programs for a release, each with its licences and pages, and writes the checksums.

  ./scripts/release.sh pack MACHINE PROGRAM    stentor-VERSION-MACHINE-linux.tar.gz of a program
  ./scripts/release.sh finish ADDRESS          install.sh for releases at ADDRESS, and SHA256SUMS of
                                               all that is there

Both write into ./target/release-files, or into the folder that RELEASE_FILES names. MACHINE is x86_64
or aarch64. Times and owners in the archive are fixed: the same program makes the same bytes.
HELP
}

version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
out=${RELEASE_FILES:-target/release-files}
mkdir -p "$out"
case ${1:-} in
    pack)
        if (($# != 3)) || [[ ! $2 =~ ^(x86_64|aarch64)$ ]]; then
            usage >&2
            exit 2
        fi
        name=stentor-$version-$2-linux
        work=$(mktemp -d)
        trap 'rm -rf "$work"' EXIT
        folder=$work/$name
        install -D -m 755 "$3" "$folder/stentor"
        install -m 644 -t "$folder" README.md CHANGELOG.md SECURITY.md LICENSE-APACHE LICENSE-MIT \
            config/stentor.toml packaging/debian/stentor.service
        install -d "$folder/docs"
        install -m 644 -t "$folder/docs" docs/*.md
        tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" \
            -C "$work" -c "$name" | gzip -9n >"$out/$name.tar.gz"
        echo "$out/$name.tar.gz"
        ;;
    finish)
        if (($# != 2)); then
            usage >&2
            exit 2
        fi
        sed -e "s|@RELEASES@|$2|" -e "s|@VERSION@|$version|" scripts/install.sh >"$out/install.sh"
        (cd "$out" && rm -f SHA256SUMS && sha256sum -- * >SHA256SUMS.new &&
            mv SHA256SUMS.new SHA256SUMS)
        cat "$out/SHA256SUMS"
        ;;
    -h | --help) usage ;;
    *)
        usage >&2
        exit 2
        ;;
esac
