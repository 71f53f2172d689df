#!/bin/sh
# Prints where promtool is. When it is nowhere, takes it out of Debian's or Ubuntu's package into target/promtool: the
# package as a whole would install a server and start it. Prints nothing and ends with 1 where that is not possible.
set -eu
cd "$(dirname "$0")/.."

if command -v promtool; then exit 0; fi
here=$PWD/target/promtool/promtool
if [ -x "$here" ]; then
    echo "$here"
    exit 0
fi
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || exit 1

# apt gives up being root to download, and has to be able to write there.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 777 "$work"
download() { (cd "$work" && apt-get download -qq prometheus >/dev/null 2>&1); }
download || {
    # Lists that were never fetched, or are old.
    [ "$(id -u)" -eq 0 ] && apt-get update -qq >/dev/null 2>&1 && download
} || exit 1
echo "promtool: taking it out of $(basename "$work"/prometheus_*.deb)" >&2
mkdir -p target/promtool
dpkg-deb --fsys-tarfile "$work"/prometheus_*.deb | tar -x -O ./usr/bin/promtool >"$here.new"
chmod 755 "$here.new"
"$here.new" --version >/dev/null 2>&1 || exit 1
mv "$here.new" "$here"
echo "$here"
