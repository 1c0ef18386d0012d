#!/usr/bin/env bash
# Makes a Debian package of a program that is built already. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'EOF'
Makes a Debian package, and prints its path.

  cargo build --release
  ./packaging/deb.sh [--program FILE] [--version VERSION] [--out FOLDER]

  --program FILE      default: target/release/stentor, or that of CARGO_TARGET_DIR
  --version VERSION   default: that of Cargo.toml, and -1
  --out FOLDER        default: target/debian

DEBFULLNAME and DEBEMAIL name the maintainer, and DEB_COMPRESSION how it is packed (xz; gzip is faster).

It needs dpkg-dev and binutils, which come with Debian's build-essential, and nothing else: no
debhelper, no cargo-deb, no root. The package depends on the C library of the machine that built the
program; build on the oldest Debian or Ubuntu that it is for.
EOF
}

program=${CARGO_TARGET_DIR:-target}/release/stentor
version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)-1
out=target/debian
while (($#)); do
    case $1 in
        -h | --help) usage && exit ;;
        --program | --version | --out)
            if (($# < 2)); then
                echo "$1 takes a value; see ./packaging/deb.sh --help" >&2
                exit 2
            fi
            declare "${1#--}=$2"
            shift
            ;;
        *)
            echo "There is no option $1; see ./packaging/deb.sh --help" >&2
            exit 2
            ;;
    esac
    shift
done
if [[ ! -x $program ]]; then
    echo "There is no program $program: run cargo build --release, or name one by --program." >&2
    exit 1
fi
for tool in dpkg-deb dpkg-shlibdeps strip; do
    if ! command -v "$tool" >/dev/null; then
        echo "$tool is missing: apt-get install dpkg-dev binutils" >&2
        exit 1
    fi
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
# dpkg keeps these modes, whatever the umask of the builder is.
umask 022
install -d "$root/DEBIAN"
install -D -m 755 "$program" "$root/usr/bin/stentor"
strip --strip-unneeded "$root/usr/bin/stentor"
install -D -m 644 packaging/debian/stentor.service "$root/lib/systemd/system/stentor.service"
# Its group is set by postinst: here the user does not exist yet.
install -D -m 640 packaging/debian/stentor.toml "$root/etc/stentor/stentor.toml"
# The program prints its own pages and completions.
install -d "$work/man"
"$program" man "$work/man"
gzip -9n "$work"/man/*.1
install -D -m 644 -t "$root/usr/share/man/man1" "$work"/man/*.1.gz
completions() { install -D -m 644 <("$program" completions "$1") "$root/usr/share/$2"; }
completions bash bash-completion/completions/stentor
completions zsh zsh/vendor-completions/_stentor
completions fish fish/vendor_completions.d/stentor.fish
doc=$root/usr/share/doc/stentor
install -D -m 644 -t "$doc" README.md SECURITY.md config/stentor.toml
install -d "$doc/docs"
install -m 644 -t "$doc/docs" docs/*.md
gzip -9n <CHANGELOG.md >"$doc/changelog.gz"
maintainer="${DEBFULLNAME:-The authors of Stentor} <${DEBEMAIL:-root@localhost}>"
gzip -9n >"$doc/changelog.Debian.gz" <<EOF
stentor ($version) unstable; urgency=medium

  * See changelog.gz.

 -- $maintainer  $(date -R -r CHANGELOG.md)
EOF
licence=$(sed 's/^[[:space:]]*$/./; s/^/ /' LICENSE-MIT)
while IFS= read -r line; do
    if [[ $line == @MIT@ ]]; then printf '%s\n' "$licence"; else printf '%s\n' "$line"; fi
done <packaging/debian/copyright >"$doc/copyright"
for script in postinst prerm postrm; do
    install -m 755 "packaging/debian/$script" "$root/DEBIAN/$script"
done
echo /etc/stentor/stentor.toml >"$root/DEBIAN/conffiles"

# dpkg-shlibdeps wants a source package around it.
mkdir "$work/debian"
printf 'Source: stentor\n\nPackage: stentor\nArchitecture: any\n' >"$work/debian/control"
libraries=$(cd "$work" && dpkg-shlibdeps -O root/usr/bin/stentor | sed -n 's/^shlibs:Depends=//p')

architecture=$(dpkg --print-architecture)
cat >"$root/DEBIAN/control" <<EOF
Package: stentor
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $(du -k -s --exclude=DEBIAN "$root" | cut -f 1)
Depends: $libraries, adduser, init-system-helpers (>= 1.54~)
Recommends: ca-certificates
Suggests: rabbitmq-server, redis-server
Section: net
Priority: optional
Description: STOMP push gateway for RabbitMQ
 Stentor pushes messages from RabbitMQ to many connected users, by WebSocket,
 SockJS or TCP. Plain subscriptions are served from a few queues a node, so that
 a RabbitMQ that restarts disconnects nobody.
EOF
(cd "$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum) \
    >"$root/DEBIAN/md5sums"

mkdir -p "$out"
package=$out/stentor_${version}_$architecture.deb
dpkg-deb --root-owner-group "-Z${DEB_COMPRESSION:-xz}" --build "$root" "$package" >/dev/null
echo "$package"
