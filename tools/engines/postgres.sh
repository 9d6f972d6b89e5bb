# shellcheck shell=bash
# Postgres from the distribution, without the cluster its package makes.

stop_signal[postgres]=INT # ends sessions; TERM would wait for them

postgres_bin=/usr/lib/postgresql/$postgres_major/bin
postgres_install() { [[ -x $postgres_bin/postgres ]] || apt_install "postgresql-$postgres_major"; }
postgres_need() { [[ -x $postgres_bin/postgres ]] || die "Postgres $postgres_major isn't installed; run: $self install"; }
postgres_ports() { say 5432; }
postgres_endpoint() { printf '%s:5432' "$ip"; }
postgres_url() { printf 'postgres://parley:%s@%s/parley?sslmode=disable' "$(secret postgres-password)" "$(postgres_endpoint)"; }
postgres_prepare_set() { secret postgres-password >/dev/null; }
postgres_query() { PGPASSWORD=$(secret postgres-password) "$postgres_bin/psql" -h "$ip" -U parley -d "$1" -XAtc "$2"; }
# The database is part of being ready: it is made by the first start.
postgres_ready() {
  [[ $(postgres_query postgres "SELECT count(*) FROM pg_database WHERE datname = 'parley'" 2>/dev/null) == 1 ]] ||
    postgres_query postgres 'CREATE DATABASE parley' 2>/dev/null
}

postgres_configure() {
  if [[ ! -e $home/data/PG_VERSION ]]; then
    rm -rf "$home/data"
    (umask 077; secret postgres-password >"$home/password")
    give "$home"
    as_user "$postgres_bin/initdb" -D "$home/data" -U parley -A scram-sha-256 --pwfile="$home/password" \
      -E UTF8 --locale=C.UTF-8 --data-checksums >"$home/logs/initdb.log" 2>&1 || die "initdb failed; see $home/logs/initdb.log"
    rm -f "$home/password"
  fi
  cat >"$home/postgres.conf" <<CONF
listen_addresses = '$ip'
port = 5432
unix_socket_directories = ''
password_encryption = scram-sha-256
max_connections = 100
shared_buffers = 32MB
max_wal_size = 256MB
fsync = on
synchronous_commit = on
jit = off
hba_file = '$home/data/pg_hba.conf'
ident_file = '$home/data/pg_ident.conf'
data_directory = '$home/data'
CONF
}
# After kill -9 its lock file names a process that may still be in the table, as one that nobody
# has waited for, and Postgres would not start. The caller knows that ours is gone.
postgres_launch() {
  rm -f "$home/data/postmaster.pid"
  launch "$postgres_bin/postgres" -c config_file="$home/postgres.conf"
}
