#!/usr/bin/env bash
# prepare.sh: sees to it that the boot test has its tools, its Debian and our dependencies in it; as root.
# Says nothing and takes no time when all is there. Prints the folders of the two layers, dependencies first.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../support/packages.sh"

[ "$(id -u)" = 0 ] || die "the boot test boots a Debian in a container. Run it as root: sudo make boot-test"
command -v dpkg-query >/dev/null || require_programs "systemd-container debootstrap" systemd-nspawn debootstrap
install_packages "The boot test" systemd-container debootstrap >&2

tree=$("$here/tree.sh")
locked=$here/../../requirements.txt
layer=$tree-python-$(sha256sum "$locked" | cut -c 1-12)

if [ ! -d "$layer" ]; then
  echo "Installing dcalqr's dependencies in it by pip (20 s)" >&2
  partial=$(mktemp -d "$layer.XXXXXX")
  # Whatever ends this, nothing stays mounted, and nothing that is mounted is removed.
  trap 'mountpoint -q "$partial/root" && umount -l "$partial/root"; rm -rf --one-file-system "$partial"' EXIT
  mkdir "$partial/layer" "$partial/work" "$partial/root"
  chmod 755 "$partial/layer"
  mount -t overlay overlay -o "lowerdir=$tree,upperdir=$partial/layer,workdir=$partial/work" "$partial/root"
  # With this machine's network, its resolver and its authorities, none of which stays.
  inside() {
    systemd-nspawn -q -D "$partial/root" --register=no --keep-unit --pipe --resolv-conf=bind-host \
      --bind-ro="$(realpath /etc/ssl/certs/ca-certificates.crt)":/run/authorities.pem --setenv=PIP_CERT=/run/authorities.pem \
      --bind-ro="$(realpath "$locked")":/run/requirements.txt "$@" >&2
  }
  inside /usr/bin/python3 -m venv /opt/dcalqr
  inside /opt/dcalqr/bin/pip install --quiet --no-cache-dir --require-hashes -r /run/requirements.txt
  umount "$partial/root"
  mv "$partial/layer" "$layer"
fi
printf '%s\n%s\n' "$layer" "$tree"
