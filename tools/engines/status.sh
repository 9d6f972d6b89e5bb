# shellcheck shell=bash
# How sets are: a table for people, JSON for programs.

not_up=0     # nodes that aren't up
total_kib=0
json_rows=()

state() {
  if ! alive; then
    printf down
  elif is_stopped; then
    printf stopped
  elif hook ready >/dev/null 2>&1; then
    printf up
  else
    printf starting # or hung: it lives and doesn't answer
  fi
}

add_status() {
  local n s kib p
  read_layout
  for n in $(node_names); do
    at "$n"
    s=$(state)
    p=$(pid) || p=
    kib=$(rss_kib)
    total_kib=$((total_kib + kib))
    [[ $s == up ]] || not_up=$((not_up + 1))
    if [[ $option_output == json ]]; then
      json_rows+=("$(printf '{"set":"%s","name":"%s","engine":"%s","state":"%s","pid":%s,"address":"%s","rss_kib":%d,"log":"%s"}' \
        "$set" "$n" "$engine" "$s" "${p:-null}" "$(hook endpoint)" "$kib" "$home/logs/out.log")")
    else
      printf '%-8s %-18s %-9s %-8s %-17s %5d MiB\n' "$set" "$n" "$s" "${p:--}" "$(hook endpoint)" $((kib / 1024))
    fi
  done
}

# command_status [SET]: of that set, or of each of which something runs.
command_status() {
  local one sets=()
  if [[ $1 ]]; then
    use_set "$1"
    read_layout
    sets=("$1")
  else
    for one in "${all_sets[@]}"; do if (use_set "$one"; something_runs); then sets+=("$one"); fi; done
  fi
  [[ $option_output == json ]] || printf '%-8s %-18s %-9s %-8s %-17s %9s\n' SET NODE STATE PID ADDRESS RSS
  for one in "${sets[@]}"; do use_set "$one"; add_status; done
  if [[ $option_output == json ]]; then
    (IFS=,; printf '[%s]\n' "${json_rows[*]}")
  else
    printf '%-65s %5d MiB\n' total $((total_kib / 1024))
    say "logs and data: $run"
  fi
  (( not_up == 0 )) || exit 3
}
something_runs() {
  local n
  [[ -e $dir/layout ]] || return 1
  read_layout
  for n in $(node_names); do (at "$n"; alive) && return 0; done
  return 1
}
