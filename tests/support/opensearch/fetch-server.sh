#!/usr/bin/env bash
# fetch-server.sh VERSION: lays out an OpenSearch server from its published jars (85 MB of downloads, once) and prints
# where it is: $SEARCH_SERVERS/opensearch-VERSION, by default below ~/.cache/dcalqr-tests.
# Needs Maven and the JDK of $JAVA_HOME, 21 or newer.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=$1
final=${SEARCH_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/dcalqr-tests}/opensearch-$version
if [ -d "$final" ]; then echo "$final"; exit 0; fi

: "${JAVA_HOME:?names no JDK}"
command -v mvn >/dev/null || { echo "Maven (mvn) is missing: apt-get install maven" >&2; exit 1; }
echo "Fetching OpenSearch $version by Maven into $final (85 MB, up to two minutes)" >&2
mkdir -p "$(dirname "$final")"
home=$(mktemp -d "$final.XXXXXX")
trap 'rm -rf "$home"' EXIT
mkdir "$home"/{lib,modules,plugins,launcher}
# Java takes the home from the user's entry, not from $HOME: an empty home of somebody's choice is to be enough.
MAVEN_OPTS="${MAVEN_OPTS:-} -Duser.home=$HOME" mvn --batch-mode -f "$here/pom.xml" -Drunner.version="$version.0" \
  org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$home/lib" \
  > "$home/mvn.log" 2>&1 || { tail -n 20 "$home/mvn.log" >&2; exit 1; }
rm "$home/mvn.log"
"$JAVA_HOME/bin/javac" -proc:none -cp "$home/lib/*" -d "$home/launcher" "$here/SearchServer.java"
# Moved as a whole, so that an interrupted fetch is never taken for a complete one.
chmod 755 "$home"
mv "$home" "$final"
trap - EXIT
echo "$final"
