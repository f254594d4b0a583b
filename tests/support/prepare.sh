#!/usr/bin/env bash
# prepare.sh: sees to it that the real servers of the tests are on this machine; installs what is missing.
# Says nothing and takes no time when all is there.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
packages=(xrootd-server xrootd-server-plugins xrootd-voms-plugins xrootd-client openssl)

die() { printf 'prepare: %s\n' "$@" >&2; exit 1; }

# Said before anything else is done: the tests mount file systems and act as other users.
[ "$(id -u)" = 0 ] || die "the tests install XRootD, mount small file systems and act as other users." \
  "Run them as root: sudo make test"

missing_packages() {
  local package
  for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
  done
}

install() {
  env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  [ ${#missing[@]} -gt 0 ] || return 0
  local command="apt-get install --no-install-recommends ${missing[*]}"
  echo "The tests need these Debian packages: ${missing[*]}"
  # The lists of packages are fetched only if what is known is too old: that takes long, and mostly is not needed.
  install "${missing[@]}" || { apt-get update && install "${missing[@]}"; } ||
    die "they could not be installed; see above. By hand: $command"
}

if command -v dpkg-query >/dev/null; then
  install_packages
else
  for program in xrootd xrdcp openssl; do
    command -v "$program" >/dev/null || die "$program is missing. On Debian: apt-get install ${packages[*]}"
  done
fi
command -v "${JAVA:-java}" >/dev/null || die "Java 17 or newer is missing: apt-get install openjdk-17-jre-headless"
"$here/kafka/fetch-jars.sh" >/dev/null
