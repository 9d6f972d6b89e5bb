# shellcheck shell=bash
# What every engine needs: words, processes, waiting.

# Where downloads are kept and where sets live. Both must be readable by the
# engines' user, so a directory under /root won't do.
if (( EUID == 0 )); then
  cache=${PARLEY_ENGINES_CACHE:-/var/cache/parley-engines}
else
  cache=${PARLEY_ENGINES_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/parley-engines}
fi
run=${PARLEY_ENGINES_DIR:-/var/tmp/parley-engines}
engine_user=parley-engines
deadline=${PARLEY_ENGINES_DEADLINE:-180}   # seconds for one node to answer

# Small and quick to start: the second compiler would double what a start costs. For
# measurements, where engines are to be as quick as they can be, it is wanted.
jit=(-XX:+UseSerialGC)
if [[ ${PARLEY_ENGINES_JIT:-small} != full ]]; then jit+=(-XX:TieredStopAtLevel=1); fi

declare -A stop_signal=() # by engine; TERM where nothing is said
declare -A grace=()       # by engine: seconds from that signal to KILL; 30 where nothing is said

say() { printf '%s\n' "$*"; }
complain() { printf 'engines: %s\n' "$*" >&2; }
die() { complain "$@"; exit 1; }
misuse() { complain "$@"; complain "see tools/engines/engines --help"; exit 2; }

now_ms() { local t=${EPOCHREALTIME/[.,]/}; printf '%s' "${t::-3}"; }
since() { local ms=$(($(now_ms) - $1)); printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100)); }

# hook NAME…: the current engine's function of that name.
hook() { "${engine//-/_}_$1" "${@:2}"; }
has_hook() { declare -F "${engine//-/_}_$1" >/dev/null; }

# Elasticsearch and Postgres refuse to run as root, so no engine does.
user=()
if (( EUID == 0 )); then user=(setpriv --reuid="$engine_user" --regid="$engine_user" --clear-groups); fi
as_user() { "${user[@]}" env HOME="$home" "$@"; }
give() { if (( EUID == 0 )); then chown -R "$engine_user:$engine_user" "$@"; fi; }
ensure_user() {
  (( EUID != 0 )) || id "$engine_user" >/dev/null 2>&1 ||
    useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$engine_user"
}

# process_of PID: its state letter and its start in ticks since boot. The pid file
# holds both pid and start, so that a later process with the same pid is never touched.
process_of() {
  local stat fields
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
  read -ra fields <<<"${stat##*) }"
  printf '%s %s' "${fields[0]}" "${fields[19]}"
}
note_pid() {
  local process
  process=$(process_of "$1") || return 1
  printf '%s %s\n' "$1" "${process#* }" >"$home/pid"
}

# pid: the node's process; fails when there is none. A zombie is none.
pid() {
  local number start process
  { read -r number start <"$home/pid"; } 2>/dev/null || return 1
  process=$(process_of "$number") || return 1
  [[ ${process#* } == "$start" && ${process% *} != Z ]] || return 1
  printf '%s' "$number"
}
alive() { pid >/dev/null; }
is_stopped() { local p process; p=$(pid) && process=$(process_of "$p") && [[ $process == T* ]]; }

# family PID: it and all that descend from it, parents first. Postgres answers from
# children of its own sessions, which a signal to a process group doesn't reach.
family() {
  local child
  say "$1"
  for child in $(pgrep -P "$1" || true); do family "$child"; done
}
signal() {
  local p all
  p=$(pid) || return 1
  mapfile -t all < <(family "$p")
  kill "-$1" "${all[@]}" 2>/dev/null || true
}

# rss_kib: resident memory of the node; pages that Postgres' processes share count once for each.
rss_kib() {
  local p sum=0 one member
  p=$(pid) || { printf 0; return; }
  for member in $(family "$p"); do
    one=$(awk '/^VmRSS/ {print $2}' "/proc/$member/status" 2>/dev/null) || one=0
    sum=$((sum + ${one:-0}))
  done
  printf '%d' "$sum"
}

# launch COMMAND…: starts the node's process as the engines' user, away from this
# terminal, with its output in the node's log; notes its pid.
launch() {
  printf '%s of %s, %s\n' "$log_mark" "$node" "$(date -u +%FT%TZ)" >>"$home/logs/out.log"
  ( cd "$home" && exec setsid "${user[@]}" env HOME="$home" "$@" ) </dev/null >>"$home/logs/out.log" 2>&1 &
  note_pid "$!"
}

# The log is kept over starts; this_start prints what came since the last one.
log_mark='== start'
this_start() {
  awk -v mark="$log_mark" 'index($0, mark) == 1 {n = 0} {line[n++] = $0} END {for (i = 0; i < n; i++) print line[i]}' "$home/logs/out.log"
}

# await SECONDS COMMAND…: until it succeeds; 1 when the node's process has ended, 2 at the deadline.
await() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    alive || return 1
    (( SECONDS < end )) || return 2
    sleep 0.2
  done
}
# gone SECONDS: waits until the node's process has ended.
gone() {
  local end=$((SECONDS + $1))
  while alive; do
    (( SECONDS < end )) || return 1
    sleep 0.1
  done
  rm -f "$home/pid"
}

# end_node: asks the node to stop, and kills it when it doesn't.
end_node() {
  local p wait=${grace[$engine]:-30}
  p=$(pid) || { rm -f "$home/pid"; return 0; }
  kill "-${stop_signal[$engine]:-TERM}" "$p" 2>/dev/null || true
  signal CONT || true # it may have been stopped, or be gone already
  gone "$wait" && return
  complain "$node of $set didn't stop within $wait s; killed"
  signal KILL || true
  gone 10 || die "$node of $set (pid $p) can't be killed"
}

listening() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }
need_free() {
  local port
  for port in "$@"; do
    if listening "$ip" "$port"; then
      die "$ip:$port is in use, $node of $set needs it; 'ss -ltnp' names the process; another address: --address or $(address_variable)"
    fi
  done
}
