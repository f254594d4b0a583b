#!/usr/bin/env bash
# prepare.sh: sees to it that the servers and the peers of the benchmarks are on this machine; installs what is missing.
# Says nothing and takes no time when all is there. Root is needed only to install.
set -euo pipefail

support=$(cd "$(dirname "${BASH_SOURCE[0]}")/../tests/support" && pwd)
source "$support/packages.sh"
PATH=$PATH:/usr/sbin     # where nginx is; not every user looks there

# Any version of a program will do, so one that is on PATH is taken: a Go that is newer than Debian's is a faster peer.
declare -A package_of=([curl]=curl [gcc]=gcc [go]=golang-go [nginx]=nginx [rclone]=rclone)
packages=(libc6-dev libssl-dev zlib1g-dev)
for program in "${!package_of[@]}"; do
  command -v "$program" >/dev/null || packages+=("${package_of[$program]}")
done

if command -v dpkg-query >/dev/null; then
  install_packages "The benchmarks" "${packages[@]}"
else
  require_programs "${packages[*]}" "${!package_of[@]}"
fi
require_java
"$support/kafka/fetch-jars.sh" >/dev/null
