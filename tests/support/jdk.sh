#!/usr/bin/env bash
# jdk.sh VERSION: prints the home of the oldest JDK on this machine that is at least of VERSION; fails if there is none.
# Looks at $JAVA_HOME, and where Debian, Temurin's packages and an operator's own hands put them.
set -euo pipefail
shopt -s nullglob

best='' best_version=999
for home in ${JAVA_HOME:+"$JAVA_HOME"} /usr/lib/jvm/* /opt/*jdk* /opt/java/*; do
  [ -x "$home/bin/javac" ] && [ -e "$home/release" ] || continue
  version=$(sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$home/release")
  if [ "${version:-0}" -ge "$1" ] && [ "$version" -lt "$best_version" ]; then best=$home best_version=$version; fi
done
[ -n "$best" ] && echo "$best"
