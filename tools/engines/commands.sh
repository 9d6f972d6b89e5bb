# shellcheck shell=bash
# What the front's words do. Each gets a set, loaded by its caller, and maybe nodes.

starting=() # nodes that this command is starting
jobs_up=()  # and the processes that wait for them

# start_nodes NODE…: all at once. When one fails, those that were started are taken down again.
start_nodes() {
  local n t failed=()
  t=$(now_ms)
  for n in "$@"; do
    at "$n"
    if alive; then say "  $n of $set runs already"; continue; fi
    hook need
    # shellcheck disable=SC2046 # words are wanted
    need_free $(hook ports)
    starting+=("$n")
  done
  ensure_user
  for n in "${starting[@]}"; do at "$n"; if has_hook prepare_set; then hook prepare_set; fi; done
  trap 'interrupted' INT TERM
  for n in "${starting[@]}"; do
    ( at "$n"; bring_up ) &
    jobs_up+=("$!")
  done
  for n in "${!starting[@]}"; do wait "${jobs_up[n]}" || failed+=("${starting[n]}"); done
  if (( ${#failed[@]} )); then give_up "${failed[@]}"; fi
  complete_set
  trap - INT TERM
  (( ${#starting[@]} == 0 )) || say "$set: ${#starting[@]} node(s) up in $(since "$t")"
}

bring_up() {
  local t status=0
  t=$(now_ms)
  mkdir -p "$home/logs"
  hook configure
  give "$home"
  hook launch
  if [[ $no_wait ]]; then return; fi
  await "$deadline" hook ready || status=$?
  case $status in
    0) printf '  %-16s %-22s pid %-7s up in %s\n' "$node" "$(hook endpoint)" "$(pid)" "$(since "$t")" ;;
    1) complain "$node of $set: its process ended while it started" ;;
    *) complain "$node of $set doesn't answer after $deadline s (PARLEY_ENGINES_DEADLINE)" ;;
  esac
  return "$status"
}

# complete_set: what is left to do once the nodes answer.
complete_set() {
  local e
  [[ -z $no_wait ]] || return 0
  for e in $(set_engines "$set"); do
    engine=$e
    if has_hook complete_set && [[ " ${starting[*]} " == *" $e-"* ]]; then hook complete_set; fi
  done
}

give_up() {
  local n
  for n in "$@"; do
    at "$n"
    complain "$n of $set failed; the last lines of $home/logs/out.log:"
    this_start 2>/dev/null | tail -n 30 | sed 's/^/    /' >&2 || true
  done
  complain "taking down what was started: ${starting[*]}"
  end_nodes "${starting[@]}"
  die "$set is not up: $* failed (logs above and in $dir)"
}
interrupted() {
  trap '' INT TERM
  complain "interrupted; taking down what was started: ${starting[*]}"
  kill "${jobs_up[@]}" 2>/dev/null || true
  wait || true
  end_nodes "${starting[@]}"
  exit 130
}

end_nodes() {
  local n jobs=() status=0
  for n in "$@"; do ( at "$n"; end_node ) & jobs+=("$!"); done
  for n in "${jobs[@]}"; do wait "$n" || status=1; done
  return "$status"
}

write_files() {
  umask 077 # they hold a password, or say where one is
  print_env >"$dir/env"
  print_addresses >"$dir/addresses"
  umask 022
}

command_up() {
  choose_layout "$option_nodes" "$option_address"
  select_nodes "$1"
  start_nodes "${selected[@]}"
  write_files
}
command_start() {
  read_layout
  select_nodes "$1"
  start_nodes "${selected[@]}"
}
command_down() {
  [[ -e $dir/layout ]] || { say "$set: nothing runs"; return; }
  local t
  t=$(now_ms)
  read_layout
  select_nodes "$1"
  end_nodes "${selected[@]}" || die "not all of $set could be stopped"
  say "$set: ${1:-all} down in $(since "$t"); data and logs are kept in $dir"
}
command_restart() { command_down "$1"; command_start "$1"; }

# send SIGNAL NODES DONE: to nodes that must run.
send() {
  local n
  read_layout
  select_nodes "$2"
  for n in "${selected[@]}"; do
    at "$n"
    alive || die "$n of $set doesn't run"
  done
  for n in "${selected[@]}"; do
    at "$n"
    signal "$1" || die "$n of $set ended just now"
    say "$n of $set: $3"
  done
}
command_kill() {
  local n
  send KILL "$1" killed
  for n in "${selected[@]}"; do at "$n"; gone 10 || die "$n of $set still runs"; done
}
command_stop() { send STOP "$1" stopped; }
command_cont() { send CONT "$1" continued; }

# command_wipe: a whole set loses its data and its layout; an engine or a node loses its memory
# and starts again empty if it ran. One node of Cassandra or Kafka can't come back
# empty under its old name, so there all nodes of the engine are wiped.
command_wipe() {
  local n ran=()
  if [[ -z $1 ]]; then
    [[ ! -e $dir/layout ]] || command_down ''
    rm -rf "${dir:?}"
    say "$set: wiped"
    return
  fi
  read_layout
  select_nodes "$1"
  at "${selected[0]}"
  [[ ! $engine =~ ^(cassandra|kafka)$ || ${#selected[@]} == "$nodes_of_set" ]] ||
    misuse "one node of $engine can't be wiped, its others remember it; all of them: wipe $set $engine"
  for n in "${selected[@]}"; do
    at "$n"
    if alive; then
      ran+=("$n")
      signal KILL || true
      gone 10 || die "$n of $set still runs"
    fi
    rm -rf "${home:?}/data"
    if has_hook forget && [[ $1 == "$engine" ]]; then hook forget; fi
  done
  say "$set: wiped ${selected[*]}"
  if (( ${#ran[@]} )); then start_nodes "${ran[@]}"; fi
}

command_logs() {
  local n log
  read_layout
  select_nodes "$1"
  for n in "${selected[@]}"; do
    at "$n"
    log=$home/logs/out.log
    if has_hook log; then log=$(hook log); fi
    say "== $log"
    if [[ -e $log ]]; then tail -n "$option_lines" "$log"; fi
  done
}
command_env() { read_layout; print_env; }
command_nodetool() {
  read_layout
  select_nodes "$1"
  at "${selected[0]}"
  [[ $engine == cassandra ]] || misuse "nodetool is Cassandra's; $1 is not"
  need_java_home
  cassandra_nodetool "${@:2}"
}
