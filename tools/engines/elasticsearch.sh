# shellcheck shell=bash
# Elasticsearch, the build made for integration tests: the one Maven Central has.
# It lacks modules of the full product; docs/engines.md says which.

elasticsearch_home() { kept "elasticsearch-$elasticsearch_version"; }
elasticsearch_install() {
  keep "elasticsearch-$elasticsearch_version" unpacked \
    "org.elasticsearch.distribution.integ-test-zip:elasticsearch:$elasticsearch_version:zip" "$elasticsearch_sha256"
}
elasticsearch_need() { need_java_home; kept "elasticsearch-$elasticsearch_version" >/dev/null; }
elasticsearch_ports() { say 9200 9300; }
elasticsearch_endpoint() { printf '%s:9200' "$ip"; }
elasticsearch_url() { printf 'http://%s' "$(elasticsearch_endpoint)"; }
elasticsearch_log() { printf '%s' "$home/logs/$set.log"; }
elasticsearch_ready() { curl -sf -m 3 "$(elasticsearch_url)/_cluster/health?wait_for_status=yellow&timeout=1s"; }

# The configuration is made anew at each start: a start adds to it what a later one refuses.
elasticsearch_configure() {
  local product
  product=$(elasticsearch_home)
  rm -rf "$home/conf"
  mkdir -p "$home"/{data,tmp}
  cp -r "$product"/*/config "$home/conf"
  mkdir -p "$home/conf/jvm.options.d"
  sed -i '/UseG1GC/d; /file=gc.log/d' "$home/conf/jvm.options" # two collectors are refused; nobody reads that log
  printf '%s\n' -Xms256m -Xmx256m "${jit[@]}" >"$home/conf/jvm.options.d/small.options"
  cat >"$home/conf/elasticsearch.yml" <<YAML
cluster.name: $set
node.name: $node
path.data: $home/data
path.logs: $home/logs
network.host: $ip
http.port: 9200
transport.port: 9300
discovery.type: single-node
action.auto_create_index: false
action.destructive_requires_name: true
cluster.routing.allocation.disk.threshold_enabled: false
node.processors: 2
xpack.security.enabled: false
YAML
}

# The script starts a JVM that starts the server and ends when that is up; until then the
# script is the node's process, and then the server.
elasticsearch_launch() {
  local product launcher
  product=$(elasticsearch_home)
  rm -f "$home/server.pid"
  launch ES_JAVA_HOME="$java" ES_PATH_CONF="$home/conf" ES_TMPDIR="$home/tmp" \
    CLI_JAVA_OPTS="-Xmx64m -XX:+UseSerialGC -XX:TieredStopAtLevel=1" \
    bash "$product"/*/bin/elasticsearch -d -p "$home/server.pid"
  launcher=$!
  gone "$deadline" || return 2
  wait "$launcher" && note_pid "$(<"$home/server.pid")"
}
