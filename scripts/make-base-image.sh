#!/usr/bin/env bash
# Makes the smallest root file system that Freehold's image can stand on, of packages of this Debian or Ubuntu: glibc,
# libgcc, the public certificate authorities, two users. For places that reach no image registry.
#
#   scripts/make-base-image.sh target/base.tar
#   podman import target/base.tar localhost/freehold-base
#   RUN_IMAGE=localhost/freehold-base make image
set -euo pipefail

out=${1:?the file to write, for instance target/base.tar}
for tool in apt-get dpkg-deb; do
  command -v "$tool" >/dev/null || { echo "$tool is missing: this needs Debian or Ubuntu" >&2; exit 2; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root" "$work/debs"
# apt gives up being root to download, and then has to be able to write there.
chmod 755 "$work"
chmod 777 "$work/debs"
(cd "$work/debs" && apt-get download -qq libc6 libgcc-s1 ca-certificates)

# With the links that make /lib the same as /usr/lib, as on the system these packages are from.
mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$root/$folder"; done
for deb in "$work"/debs/*.deb; do dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --keep-directory-symlink; done

mkdir -p "$root"/{dev,etc/ssl/certs,proc,run/secrets,sys,tmp,var/tmp}
chmod 1777 "$root/tmp" "$root/var/tmp"
cat "$root"/usr/share/ca-certificates/*/*.crt >"$root/etc/ssl/certs/ca-certificates.crt"
printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n' >"$root/etc/passwd"
printf 'root:x:0:\nnonroot:x:65532:\n' >"$root/etc/group"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"

# No program but the loader runs in here; what the packages bring for others goes. Licences stay.
rm -rf "$root"/usr/{bin,sbin}/* "$root"/usr/share/{ca-certificates,man,locale,lintian} "$root"/etc/{ca-certificates,ld.so.conf.d} \
  "$root"/usr/lib/*/{gconv,audit}
find "$root/usr/share/doc" -type f ! -name copyright -delete

mkdir -p "$(dirname "$out")"
tar -c -C "$root" --owner=0 --group=0 --numeric-owner --sort=name -f "$out" .
echo "$out: $(du -h "$out" | cut -f1)" >&2
