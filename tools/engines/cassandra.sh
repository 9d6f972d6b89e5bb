# shellcheck shell=bash
# Apache Cassandra, from its jar and what that needs. One address a node.

cassandra_install() { keep "cassandra-$cassandra_version" jars "org.apache.cassandra:cassandra-all:$cassandra_version"; }
cassandra_need() { need_java_home; kept "cassandra-$cassandra_version" >/dev/null; }
cassandra_ports() { say 9042 7000; }
cassandra_endpoint() { printf '%s:9042' "$ip"; }

# Its JMX listens on 127.0.0.1 whatever the node's address is, so each node has a port of its own.
cassandra_jmx_port() { local a; IFS=. read -ra a <<<"$ip"; printf '%d' $((20000 + a[2] * 256 + a[3])); }

# What Cassandra reaches for inside the JDK, as its own start script lists it for Java 17.
cassandra_exports=(java.base/jdk.internal.misc java.base/jdk.internal.ref java.base/sun.nio.ch java.sql/java.sql
  java.management.rmi/com.sun.jmx.remote.internal.rmi java.rmi/sun.rmi.registry java.rmi/sun.rmi.server java.rmi/sun.rmi.transport.tcp)
cassandra_opens=(java.base/java.io java.base/java.lang java.base/java.lang.module java.base/java.lang.reflect java.base/java.nio
  java.base/java.util java.base/jdk.internal.loader java.base/jdk.internal.math java.base/jdk.internal.module java.base/jdk.internal.ref
  java.base/jdk.internal.reflect java.base/jdk.internal.util.jar java.base/sun.nio.ch java.rmi/sun.rmi.transport.tcp
  jdk.management/com.sun.management.internal jdk.management.jfr/jdk.management.jfr)
cassandra_modules() {
  local m
  for m in "${cassandra_exports[@]}"; do say "--add-exports=$m=ALL-UNNAMED"; done
  for m in "${cassandra_opens[@]}"; do say "--add-opens=$m=ALL-UNNAMED"; done
}

cassandra_configure() {
  mkdir -p "$home"/{conf,tmp}
  cassandra_yaml >"$home/conf/cassandra.yaml"
  printf 'dc=dc1\nrack=rack%d\n' "$number" >"$home/conf/cassandra-rackdc.properties"
  cat >"$home/conf/logback.xml" <<'XML'
<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender"><encoder><pattern>%-5level [%thread] %date{ISO8601} %F:%L - %msg%n</pattern></encoder></appender>
  <root level="INFO"><appender-ref ref="out"/></root>
</configuration>
XML
  cat >"$home/conf/nodetool.xml" <<'XML'
<configuration>
  <appender name="err" class="ch.qos.logback.core.ConsoleAppender"><target>System.err</target><encoder><pattern>%msg%n</pattern></encoder></appender>
  <root level="ERROR"><appender-ref ref="err"/></root>
</configuration>
XML
}

# Differs from a production node in: one token a node, given, and no bootstrap, so that all
# start at once; small caches; long timeouts, for busy machines. commitlog_sync must be what
# production has: with the default, periodic, kill -9 loses writes that were acknowledged.
cassandra_yaml() {
  local seeds=("${addresses[@]/%/:7000}")
  cat <<YAML
cluster_name: $set
num_tokens: 1
initial_token: $(((1 << 63) + (number - 1) * (((1 << 62) / nodes_of_set) * 4)))
auto_bootstrap: false
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: GossipingPropertyFileSnitch
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: "$(IFS=,; echo "${seeds[*]}")"
listen_address: $ip
rpc_address: $ip
storage_port: 7000
native_transport_port: 9042
commitlog_sync: batch
commitlog_segment_size: 8MiB
commitlog_total_space: 64MiB
commitlog_directory: $home/data/commitlog
data_file_directories: ["$home/data/tables"]
hints_directory: $home/data/hints
saved_caches_directory: $home/data/caches
cdc_raw_directory: $home/data/cdc
disk_failure_policy: stop
commit_failure_policy: stop
storage_compatibility_mode: NONE
paxos_variant: v2
auto_snapshot: false
memtable_heap_space: 64MiB
memtable_offheap_space: 64MiB
file_cache_size: 32MiB
networking_cache_size: 32MiB
key_cache_size: 8MiB
counter_cache_size: 0MiB
prepared_statements_cache_size: 5MiB
concurrent_reads: 16
concurrent_writes: 16
concurrent_compactors: 1
read_request_timeout: 5s
write_request_timeout: 5s
range_request_timeout: 10s
truncate_request_timeout: 30s
cas_contention_timeout: 2s
internode_compression: none
YAML
}

cassandra_launch() {
  local lib modules agent=()
  lib=$(kept "cassandra-$cassandra_version")
  mapfile -t modules < <(cassandra_modules)
  agent=("$lib"/jamm-*.jar)
  launch "$java/bin/java" -Xms384m -Xmx384m -Xss384k -XX:MaxDirectMemorySize=256m "${jit[@]}" \
    -XX:-UsePerfData -XX:+ExitOnOutOfMemoryError -Djava.io.tmpdir="$home/tmp" -Djava.net.preferIPv4Stack=true \
    -Djdk.attach.allowAttachSelf=true -Dio.netty.tryReflectionSetAccessible=true -Dio.netty.eventLoopThreads=2 \
    -Dchronicle.analytics.disable=true -Dcassandra.config="file://$home/conf/cassandra.yaml" -Dcassandra.storagedir="$home/data" \
    -Dcassandra.logdir="$home/logs" -Dlogback.configurationFile="file://$home/conf/logback.xml" -Dcassandra-foreground=yes \
    -Dcassandra.jmx.local.port="$(cassandra_jmx_port)" -Dcassandra.ring_delay_ms=2000 -Dcassandra.migration_delay_ms=1000 -Dcassandra.skip_wait_for_gossip_to_settle=0 \
    -Dcassandra.superuser_setup_delay_ms=0 -Dcassandra.consistent.rangemovement=false \
    "${modules[@]}" -javaagent:"${agent[0]}" -cp "$home/conf:$lib/*" org.apache.cassandra.service.CassandraDaemon
}

# Ready when clients get in, and when this node and every other that lives have found each other: before
# that a quorum write can fail.
cassandra_ready() {
  local me=$node other
  listening "$ip" 9042 || return 1
  for other in $(node_names); do
    [[ $other == cassandra-* && $other != "$me" ]] || continue
    (at "$other"; alive && ! is_stopped) || continue
    cassandra_sees "$me" "$other" && cassandra_sees "$other" "$me" || return 1
  done
}
# Nodes that start side by side each make the system's tables, and agree on a schema later; until
# then a client's CREATE waits for up to a minute. Only nodetool can tell.
cassandra_complete_set() {
  (( nodes_of_set > 1 )) || return 0
  local n
  for n in $(node_names); do
    at "$n"
    if [[ $engine == cassandra ]] && alive && ! is_stopped; then break; fi
  done
  await 120 cassandra_agrees || die "the Cassandra nodes of $set don't agree on a schema; see: $self nodetool $set $node -- describecluster"
}
cassandra_agrees() {
  local told
  told=$(cassandra_nodetool describecluster) || return 1
  (( $(grep -cE '^[[:space:]]+[0-9a-f-]{36}: \[' <<<"$told") == 1 ))
}
# cassandra_sees A B: whether the last that A logged of B is that it is up.
cassandra_sees() {
  local peer
  peer=$(at "$2"; printf '%s' "$ip")
  (at "$1"; this_start) | awk -v up="/$peer:7000 is now UP" -v down="/$peer:7000 is now DOWN" \
    'index($0, up) {seen = 1} index($0, down) {seen = 0} END {exit !seen}'
}

cassandra_nodetool() {
  local lib modules
  lib=$(kept "cassandra-$cassandra_version")
  mapfile -t modules < <(cassandra_modules)
  "$java/bin/java" -Xmx64m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "${modules[@]}" -Dcassandra.logdir="$home/tmp" \
    -Dlogback.configurationFile="file://$home/conf/nodetool.xml" -cp "$lib/*" \
    org.apache.cassandra.tools.NodeTool -h 127.0.0.1 -p "$(cassandra_jmx_port)" "$@"
}
