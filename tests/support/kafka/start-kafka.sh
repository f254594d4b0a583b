#!/usr/bin/env bash
# start-kafka.sh JARS DIR [FORMAT-OPTION...]
#
# Becomes the Kafka broker that DIR/server.properties describes; a DIR without data is formatted first, with the
# options given (--add-scram ...). It serves when it writes "Kafka Server started"; an open port proves nothing.
# tests/support/kafka.py writes the properties and uses this; $JAVA names another java than the one on PATH.
set -euo pipefail

jars=$1 dir=$2
shift 2

jvm=(
  "${JAVA:-java}" -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1     # small, and quick to start rather than fast
  -Djava.awt.headless=true
  -Dorg.slf4j.simpleLogger.defaultLogLevel=warn
  -Dorg.slf4j.simpleLogger.showDateTime=true
  -Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS
  -Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info        # says "Kafka Server started"
  -cp "$jars/*"
)

if [ ! -f "$dir/data/meta.properties" ]; then
  cluster=$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=')
  # "=" because an id may begin with "-"
  "${jvm[@]}" kafka.tools.StorageTool format --cluster-id="$cluster" --config "$dir/server.properties" "$@"
fi
exec "${jvm[@]}" kafka.Kafka "$dir/server.properties"
