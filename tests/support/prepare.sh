#!/usr/bin/env bash
# prepare.sh: sees to it that the real servers of the tests are on this machine; installs what is missing.
# Says nothing and takes no time when all is there.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
packages=(python3-fusepy xrootd-server xrootd-server-plugins xrootd-voms-plugins xrootd-client openssl logrotate prometheus chromium)

source "$here/packages.sh"

# Said before anything else is done: the tests mount file systems and act as other users.
[ "$(id -u)" = 0 ] || die "the tests install XRootD, mount small file systems and act as other users." \
  "Run them as root: sudo make test"

if command -v dpkg-query >/dev/null; then
  install_packages "The tests" "${packages[@]}"
else
  require_programs "${packages[*]}" xrootd xrdcp openssl prometheus promtool chromium
fi
require_java
"$here/kafka/fetch-jars.sh" >/dev/null

fetch_search_servers() {
  local product version java
  while read -r product version java; do
    if JAVA_HOME=$("$here/jdk.sh" "$java"); then
      JAVA_HOME=$JAVA_HOME "$here/$product/fetch-server.sh" "$version" >/dev/null
    elif [ "$java" -le 17 ]; then
      die "$product $version needs a JDK $java or newer: apt-get install openjdk-17-jdk-headless"
    else
      echo "$product $version is not tested: it needs a JDK $java or newer, in /usr/lib/jvm, /opt or \$JAVA_HOME"
    fi
  done < <(grep -v '^#' "$here/search-servers.txt")
}

fetch_search_servers
