# shellcheck shell=bash
# Redis from the distribution: a single server, and a cluster of three masters
# (sharded pub-sub and redirects are different there).

redis_install() { need_packages "redis-server:$redis_package"; }
redis_need() { command -v redis-server >/dev/null || die "Redis isn't installed; run: $self install"; }
redis_ports() { say 6379; }
redis_endpoint() { printf '%s:6379' "$ip"; }
redis_ready() { [[ $(redis_call PING) == PONG ]]; }
redis_configure() { redis_conf >"$home/redis.conf"; }
redis_launch() { launch redis-server "$home/redis.conf"; }

redis_cluster_install() { redis_install; }
redis_cluster_need() { redis_need; }
redis_cluster_ports() { say $((6380 + number)) $((16380 + number)); }
redis_cluster_endpoint() { printf '%s:%d' "$ip" $((6380 + number)); }
redis_cluster_ready() { redis_ready; }
redis_cluster_configure() {
  {
    redis_conf
    say cluster-enabled yes
    say cluster-config-file "$home/nodes.conf"
    say cluster-node-timeout 3000
    say cluster-require-full-coverage no
    # Else the others see the address that a connection to them came from: 127.0.0.1.
    say cluster-announce-ip "$ip"
  } >"$home/redis.conf"
}
redis_cluster_launch() { redis_launch; }

redis_port() { hook ports | cut -d ' ' -f 1; }
redis_call() { redis-cli -h "$ip" -p "$(redis_port)" "$@" 2>/dev/null; }
redis_conf() {
  mkdir -p "$home/data"
  cat <<CONF
bind $ip
port $(redis_port)
dir $home/data
daemonize no
appendonly yes
appendfsync everysec
save ""
maxmemory 256mb
maxmemory-policy noeviction
CONF
}

# Once all three live: the first time they are made one cluster, and then each must know all slots.
redis_cluster_complete_set() {
  local k
  for k in 3 2 1; do
    at "redis-cluster-$k"
    alive || return 0
  done
  if [[ $(redis_call CLUSTER INFO) == *cluster_slots_assigned:0* ]]; then
    # shellcheck disable=SC2046 # words are wanted
    timeout 60 redis-cli --cluster create $(endpoints redis-cluster | tr , ' ') --cluster-replicas 0 --cluster-yes >>"$home/logs/create.log" 2>&1 ||
      die "the Redis cluster of $set can't be made; see $home/logs/create.log, then: $self wipe $set redis-cluster"
  fi
  await 30 redis_cluster_whole || die "the Redis cluster of $set isn't whole after 30 s; see $home/logs/out.log"
}
redis_cluster_whole() {
  local k info
  for k in 1 2 3; do
    info=$(at "redis-cluster-$k"; redis_call CLUSTER INFO)
    [[ $info == *cluster_state:ok* && $info == *cluster_slots_ok:16384* ]] || return 1
  done
}
# One master that is wiped stays a member and has its slots; all of them are made one cluster anew.
redis_cluster_forget() { rm -f "$home/nodes.conf"; }
