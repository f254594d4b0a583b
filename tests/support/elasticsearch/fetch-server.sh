#!/usr/bin/env bash
# fetch-server.sh VERSION: lays out an Elasticsearch server from its published jars (105 MB of downloads, once) and
# prints where it is: $SEARCH_SERVERS/elasticsearch-VERSION, by default below ~/.cache/dcalqr-tests.
# Needs Maven and the JDK of $JAVA_HOME: 17 or newer for version 8, 21 or newer for 9.
# x-pack is under the Elastic License: good for tests, never to be shipped.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=$1
final=${SEARCH_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/dcalqr-tests}/elasticsearch-$version
if [ -d "$final" ]; then echo "$final"; exit 0; fi

: "${JAVA_HOME:?names no JDK}"
command -v mvn >/dev/null || { echo "Maven (mvn) is missing: apt-get install maven" >&2; exit 1; }
echo "Fetching Elasticsearch $version by Maven into $final (105 MB, up to two minutes)" >&2
mkdir -p "$(dirname "$final")"
home=$(mktemp -d "$final.XXXXXX")
trap 'rm -rf "$home"' EXIT
mkdir "$home"/{lib,modules,plugins,launcher,work}

# Java takes the home from the user's entry, not from $HOME: an empty home of somebody's choice is to be enough.
export MAVEN_OPTS="${MAVEN_OPTS:-} -Duser.home=$HOME"

fetch() { # fetch PROFILE FOLDER
  mvn --batch-mode -f "$here/pom.xml" -Des.version="$version" -P "$1" \
    org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$2" \
    > "$home/work/mvn.log" 2>&1 || { tail -n 20 "$home/work/mvn.log" >&2; exit 1; }
}

module() { # module NAME [EXTENDED]: a module's folder without the jars that the server or the extended module has
  local to=$home/modules/$1 jar name
  fetch "$1" "$to"
  for jar in "$to"/*.jar; do
    name=$(basename "$jar")
    if [ -e "$home/lib/$name" ] || { [ -n "${2:-}" ] && [ -e "$home/modules/$2/$name" ]; }; then rm "$jar"; fi
  done
  # Its descriptor lies in its jar, and the server looks for it beside that.
  (cd "$to" && "$JAVA_HOME/bin/jar" xf "$1-$version.jar" "META-INF/es-plugins/$1" 2>/dev/null || true)
  if [ -d "$to/META-INF" ]; then mv "$to/META-INF/es-plugins/$1"/* "$to/" && rm -r "$to/META-INF"; fi
  [ -e "$to/plugin-descriptor.properties" ] || { echo "$1-$version.jar has no plugin-descriptor.properties" >&2; exit 1; }
}

stub() { # stub MODULE NAME: an empty jar in place of a Java module that is not published
  printf 'Automatic-Module-Name: %s\n' "$2" > "$home/work/manifest"
  "$JAVA_HOME/bin/jar" cfm "$home/modules/$1/stub-$2.jar" "$home/work/manifest"
}

fetch server "$home/lib"
module transport-netty4
module x-pack-core
module x-pack-security x-pack-core
stub x-pack-core org.elasticsearch.xcore.templates
for name in net.shibboleth.utilities.java.support org.opensaml.{core,saml,saml.impl,security,security.impl,xmlsec,xmlsec.impl}; do
  stub x-pack-security "$name"
done

major=v${version%%.*}
"$JAVA_HOME/bin/javac" -proc:none -cp "$home/lib/*" -d "$home/launcher" "$here"/src/any/*.java "$here/src/$major"/*.java
mkdir "$home/modules/rest-root" "$home/work/plugin"
"$JAVA_HOME/bin/javac" -proc:none -cp "$home/lib/*" -d "$home/work/plugin" \
  "$here"/src/plugin/any/*.java "$here/src/plugin/$major"/*.java
"$JAVA_HOME/bin/jar" cf "$home/modules/rest-root/rest-root.jar" -C "$home/work/plugin" .
cat > "$home/modules/rest-root/plugin-descriptor.properties" <<END
description=GET / and the analyzer of the security index
version=$version
name=rest-root
java.version=17
elasticsearch.version=$version
classname=dcalqr.esroot.EsRoot
END

# Moved as a whole, so that an interrupted fetch is never taken for a complete one.
rm -r "$home/work"
chmod 755 "$home"
mv "$home" "$final"
trap - EXIT
echo "$final"
