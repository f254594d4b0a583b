#!/usr/bin/env bash
# fetch-jars.sh: fills the folder of Kafka's jars by Maven (44 MB, once) and prints where it is.
# The folder is $KAFKA_JARS, by default ~/.cache/dcalqr-tests/kafka-jars.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
jars=${KAFKA_JARS:-${XDG_CACHE_HOME:-$HOME/.cache}/dcalqr-tests/kafka-jars}

# The version stands in the pom alone; a newer one there makes the old folder incomplete.
version=$(sed -n '/<artifactId>kafka_2.13</,/<\/dependency>/s/.*<version>\(.*\)<\/version>.*/\1/p' "$here/pom.xml")

if [ ! -f "$jars/kafka_2.13-$version.jar" ]; then
  command -v mvn >/dev/null || { echo "Maven (mvn) is missing, and Kafka's jars are not in $jars: apt-get install maven" >&2; exit 1; }
  echo "Fetching Kafka $version by Maven into $jars (44 MB, up to a minute)" >&2
  mkdir -p "$(dirname "$jars")"
  partial=$(mktemp -d "$jars.XXXXXX")
  trap 'rm -rf "$partial"' EXIT
  # Java takes the home from the user's entry, not from $HOME: an empty home of somebody's choice is to be enough.
  MAVEN_OPTS="${MAVEN_OPTS:-} -Duser.home=$HOME" mvn --batch-mode -f "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$partial" \
    > "$partial/mvn.log" 2>&1 || { tail -n 20 "$partial/mvn.log" >&2; exit 1; }
  rm "$partial/mvn.log"
  # Moved as a whole, so that an interrupted fetch is never taken for a complete one.
  rm -rf "$jars"
  mv "$partial" "$jars"
  trap - EXIT
fi
echo "$jars"
