#!/usr/bin/env bash
# prepare.sh: sees to it that the image can be built and run here, without a Docker daemon and without a registry; as
# root. Prints the environment for it, NAME=VALUE. The base that the Dockerfile names is made of the same Debian packages,
# by debootstrap (50 s, once); all images lie in a storage of the tests' own, below ~/.cache/dcalqr-tests.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../support/packages.sh"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/dcalqr-tests/containers
base=localhost/debian-slim-stand-in:12

[ "$(id -u)" = 0 ] || die "the image test builds and runs containers. Run it as root: sudo make image-test"
command -v dpkg-query >/dev/null || require_programs "podman buildah runc debootstrap" podman buildah runc debootstrap
install_packages "The image test" buildah podman runc debootstrap >&2

mkdir -p "$cache"
export CONTAINERS_STORAGE_CONF=$cache/storage.conf CONTAINERS_CONF=$here/containers.conf
printf '[storage]\ndriver = "overlay"\nrunroot = "%s/run"\ngraphroot = "%s/graph"\n' "$cache" "$cache" > "$CONTAINERS_STORAGE_CONF"

if ! podman image exists "$base"; then
  echo "Making a stand-in for debian:12-slim by debootstrap (50 s)" >&2
  partial=$(mktemp -d "$cache/base.XXXXXX")
  trap 'rm -rf "$partial"' EXIT
  debootstrap --variant=minbase bookworm "$partial" > "$cache/base.log" 2>&1 || { tail -n 20 "$cache/base.log" >&2; exit 1; }
  # As the real one: no documents, no translations, neither now nor with further packages.
  printf 'path-exclude /usr/share/%s/*\n' doc man info locale > "$partial/etc/dpkg/dpkg.cfg.d/slim"
  rm -rf "$partial"/usr/share/{doc,man,info,locale}/* "$partial"/var/cache/apt/* "$partial"/var/lib/apt/lists/*
  tar -C "$partial" -c . | podman import --quiet - "$base" >&2
fi
printf '%s\n' "BASE=$base" "CONTAINERS_STORAGE_CONF=$CONTAINERS_STORAGE_CONF" "CONTAINERS_CONF=$CONTAINERS_CONF"
