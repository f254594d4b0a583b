#!/usr/bin/env bash
# tree.sh: makes a small Debian 12 with systemd and Python, once (80 s), and prints where it is. As root.
# The folder is $BOOT_TREE, by default ~/.cache/dcalqr-tests/debian-12-systemd.
set -euo pipefail

tree=${BOOT_TREE:-${XDG_CACHE_HOME:-$HOME/.cache}/dcalqr-tests/debian-12-systemd}
packages=systemd,systemd-sysv,dbus,python3,python3-venv,ca-certificates

if [ ! -d "$tree" ]; then
  command -v debootstrap >/dev/null || { echo "debootstrap is missing: apt-get install debootstrap" >&2; exit 1; }
  echo "Fetching a Debian 12 with systemd by debootstrap into $tree (80 s)" >&2
  mkdir -p "$(dirname "$tree")"
  partial=$(mktemp -d "$tree.XXXXXX")
  trap 'rm -rf "$partial"' EXIT
  debootstrap --variant=minbase --include="$packages" bookworm "$partial" > "$partial.log" 2>&1 ||
    { tail -n 20 "$partial.log" >&2; exit 1; }
  rm -rf "$partial.log" "$partial"/var/cache/apt/archives/*.deb "$partial"/var/lib/apt/lists/*
  chmod 755 "$partial"
  # Moved as a whole, so that an interrupted fetch is never taken for a complete one.
  mv "$partial" "$tree"
  trap - EXIT
fi
echo "$tree"
