# shellcheck shell=bash
# What a set is: its engines, nodes and addresses. Node k of Cassandra and Kafka
# has the set's address k, all else its first; the ports are the same in every set.

all_sets=(suite suite3 cell-1 cell-2)

set_engines() {
  case $1 in
    suite) say cassandra kafka redis redis-cluster postgres elasticsearch ;;
    suite3) say cassandra kafka ;;
    cell-*) say cassandra kafka redis postgres elasticsearch ;;
  esac
}

# default_addresses SET NODES: the third number is the node, the fourth the set.
default_addresses() {
  local last k all=()
  case $1 in
    cell-1) last=11 ;;
    cell-2) last=12 ;;
    suite) last=13 ;;
    suite3) last=14 ;;
  esac
  for ((k = 0; k < $2; k++)); do all+=("127.0.$k.$last"); done
  (IFS=,; printf '%s' "${all[*]}")
}
address_variable() { local name=${set^^}; printf 'PARLEY_ENGINES_ADDRESS_%s' "${name//-/_}"; }

# choose_layout [NODES] [ADDRESSES]: how many nodes of Cassandra and Kafka, and where. What a set
# was made with holds until it is wiped: data knows its addresses.
choose_layout() {
  local nodes=$1 list=$2 variable
  variable=$(address_variable)
  if [[ -e $dir/layout ]]; then
    read_layout
    [[ ${nodes:-$nodes_of_set} == "$nodes_of_set" && ${list:-$address_list} == "$address_list" ]] ||
      die "$set holds data of $nodes_of_set node(s) at $address_list; to make it anew: $self wipe $set"
    return
  fi
  [[ $set != suite3 || ${nodes:-3} == 3 ]] || misuse "suite3 has 3 nodes"
  [[ $set == suite3 ]] && nodes=3
  nodes=${nodes:-1}
  [[ $nodes == 1 || $nodes == 3 ]] || misuse "--nodes is 1 or 3, not $nodes"
  list=${list:-${!variable:-$(default_addresses "$set" "$nodes")}}
  IFS=, read -ra addresses <<<"$list"
  (( ${#addresses[@]} == nodes )) || misuse "$set needs $nodes address(es), not '$list'; --address or $variable"
  for ip in "${addresses[@]}"; do
    [[ $ip =~ ^127(\.[0-9]{1,3}){3}$ ]] || misuse "'$ip' is no loopback address: these engines have no TLS and some no password"
  done
  mkdir -p "$dir" || die "can't make $dir; set PARLEY_ENGINES_DIR"
  printf '%s %s\n' "$nodes" "$list" >"$dir/layout"
  read_layout
}
read_layout() {
  [[ -e $dir/layout ]] || die "$set was never up; run: $self up $set"
  read -r nodes_of_set address_list <"$dir/layout"
  IFS=, read -ra addresses <<<"$address_list"
}

# node_names: every node of the set, in the order people read them.
node_names() {
  local e k count
  for e in $(set_engines "$set"); do
    case $e in
      cassandra | kafka) count=$nodes_of_set ;;
      redis-cluster) count=3 ;;
      *) count=1 ;;
    esac
    for ((k = 1; k <= count; k++)); do say "$e-$k"; done
  done
}

# select_nodes [ENGINE[-NODE]]: fills selected.
select_nodes() {
  local n all
  mapfile -t all < <(node_names)
  selected=()
  for n in "${all[@]}"; do
    [[ -z $1 || $n == "$1" || ${n%-*} == "$1" ]] && selected+=("$n")
  done
  (( ${#selected[@]} )) || misuse "$set has no '$1'; it has: ${all[*]}"
}

# at NODE: makes it the current one.
at() {
  node=$1
  engine=${node%-*}
  number=${node##*-}
  home=$dir/$node
  ip=${addresses[0]}
  [[ $engine == cassandra || $engine == kafka ]] && ip=${addresses[number - 1]}
  return 0
}
# endpoints ENGINE: of all nodes, comma-separated.
endpoints() {
  local n all=()
  for n in $(node_names); do
    [[ ${n%-*} == "$1" ]] && all+=("$(at "$n"; hook endpoint)")
  done
  (IFS=,; printf '%s' "${all[*]}")
}

# secret NAME: made once for each set.
secret() {
  [[ -s $dir/$1 ]] || (umask 077; od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$dir/$1")
  cat "$dir/$1"
}

# What tests read (export …) and what cells' configs are made from (name=value).
print_env() {
  local e
  for e in $(set_engines "$set"); do
    engine=$e
    local name=${e^^} value
    value=$(endpoints "$e")
    if has_hook url; then value=$(at "$e-1"; hook url); fi
    say "export PARLEY_TEST_${name//-/_}=$value"
  done
  say "export PARLEY_TEST_ENGINES=$self"
  say "export PARLEY_TEST_SET=$set"
}
print_addresses() {
  local e
  for e in $(set_engines "$set"); do say "${e//-/_}=$(endpoints "$e")"; done
  if [[ -e $dir/postgres-password ]]; then
    say "postgres_user=parley" "postgres_database=parley" "postgres_password_file=$dir/postgres-password" | tr ' ' '\n'
  fi
}
