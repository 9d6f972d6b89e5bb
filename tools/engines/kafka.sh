# shellcheck shell=bash
# Apache Kafka in KRaft mode; each node is broker and controller. One address a node.

grace[kafka]=15 # the last nodes of three can't hand over to anybody and would wait for minutes

kafka_install() {
  keep "kafka-$kafka_version" jars "org.apache.kafka:kafka_$kafka_scala:$kafka_version" "org.apache.kafka:kafka-tools:$kafka_version" \
    "org.apache.logging.log4j:log4j-slf4j-impl:$kafka_log4j" "org.apache.logging.log4j:log4j-core:$kafka_log4j"
}
kafka_need() { need_java_home; kept "kafka-$kafka_version" >/dev/null; }
kafka_ports() { say 9092 9093; }
kafka_endpoint() { printf '%s:9092' "$ip"; }
kafka_ready() { listening "$ip" 9092 && [[ $(this_start) == *'Kafka Server started'* ]]; }

kafka_configure() {
  mkdir -p "$home"/{conf,data}
  kafka_properties >"$home/conf/server.properties"
  cat >"$home/conf/log4j2.xml" <<'XML'
<Configuration status="WARN">
  <Appenders><Console name="out"><PatternLayout pattern="[%d] %p %m (%c)%n"/></Console></Appenders>
  <Loggers><Root level="INFO"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
XML
}

# Three nodes keep every topic three times and take a write when two have it.
# Differs from production in: few threads, small internal topics, broker and controller in one.
kafka_properties() {
  local replicas=1 in_sync=1 k voters=() session=6000
  # How long a dead broker leads its partitions on is its session; a single one gains nothing
  # by a short one, and would be taken for dead on a machine that does much else.
  if (( nodes_of_set >= 3 )); then replicas=3 in_sync=2 session=${PARLEY_ENGINES_KAFKA_SESSION:-3000}; fi
  for k in "${!addresses[@]}"; do voters+=("$((k + 1))@${addresses[k]}:9093"); done
  cat <<PROPERTIES
process.roles=broker,controller
node.id=$number
broker.rack=rack$number
controller.quorum.voters=$(IFS=,; echo "${voters[*]}")
listeners=PLAINTEXT://$ip:9092,CONTROLLER://$ip:9093
advertised.listeners=PLAINTEXT://$ip:9092
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$home/data
log.segment.bytes=67108864
log.cleaner.dedupe.buffer.size=4194304
auto.create.topics.enable=false
unclean.leader.election.enable=false
default.replication.factor=$replicas
min.insync.replicas=$in_sync
offsets.topic.replication.factor=$replicas
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$in_sync
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=$replicas
share.coordinator.state.topic.min.isr=$in_sync
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=$session
broker.heartbeat.interval.ms=$((session / 6))
replica.lag.time.max.ms=10000
num.network.threads=2
num.io.threads=4
background.threads=2
PROPERTIES
}

kafka_java() {
  local heap=$1 lib
  shift
  lib=$(kept "kafka-$kafka_version")
  java_command=("$java/bin/java" -Xmx"$heap" "${jit[@]}" -XX:-UsePerfData -XX:+ExitOnOutOfMemoryError
    -XX:MaxDirectMemorySize=128m -Djava.awt.headless=true -Dlog4j2.configurationFile="$home/conf/log4j2.xml" -cp "$lib/*" "$@")
}
# A cluster's id is 16 bytes in base64; a node's data is made for one.
kafka_cluster_id() {
  [[ -s $dir/kafka-cluster-id ]] || say "P$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=' | cut -c 2-)" >"$dir/kafka-cluster-id"
  cat "$dir/kafka-cluster-id"
}
# Before the nodes start side by side: they share the id.
kafka_prepare_set() { kafka_cluster_id >/dev/null; }
kafka_launch() {
  local java_command
  if [[ ! -e $home/data/meta.properties ]]; then
    kafka_java 96m kafka.tools.StorageTool format -t "$(kafka_cluster_id)" -c "$home/conf/server.properties"
    as_user "${java_command[@]}" >>"$home/logs/format.log" 2>&1 || { tail -n 5 "$home/logs/format.log" >>"$home/logs/out.log"; return 1; }
  fi
  kafka_java 256m kafka.Kafka "$home/conf/server.properties"
  launch "${java_command[@]}"
}
