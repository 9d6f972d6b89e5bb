# shellcheck shell=bash
# Gets engines by ordinary clients: apt-get and Maven. What is there is kept.

# need_packages COMMAND:PACKAGE…: installs the packages of the commands that are missing.
need_packages() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  (( ${#missing[@]} == 0 )) || apt_install "${missing[@]}"
}

apt_install() {
  (( EUID == 0 )) || die "missing packages; as root: apt-get install --no-install-recommends $*"
  command -v apt-get >/dev/null || die "missing $* and no apt-get here; install them and run again"
  say "installing $* by apt-get"
  compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || apt-get update -qq
  # Lists that are too old name packages that are gone: one more try with fresh ones.
  without_daemons apt_get "$@" || { apt-get update -qq && without_daemons apt_get "$@"; } ||
    die "apt-get could not install $*"
}
apt_get() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }

# without_daemons COMMAND…: packages of servers start them at once; here only our sets run.
without_daemons() {
  local policy=/usr/sbin/policy-rc.d status=0
  if [[ -e $policy ]]; then
    "$@"
    return
  fi
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  "$@" || status=$?
  rm -f "$policy"
  if [[ -d /run/systemd/system ]]; then
    systemctl disable redis-server postgresql >/dev/null 2>&1 || true
  fi
  return "$status"
}

# java: the home of a Java runtime of the pinned major version; Cassandra takes no newer one.
java_home() {
  local candidate
  for candidate in "${PARLEY_ENGINES_JAVA_HOME:-}" /usr/lib/jvm/*"-$java_major-"* "${JAVA_HOME:-}"; do
    [[ $candidate && -x $candidate/bin/java ]] || continue
    # The output is read whole: java must not meet a closed pipe.
    if [[ $("$candidate/bin/java" -version 2>&1) == *"version \"$java_major."* ]]; then
      printf '%s' "$candidate"
      return
    fi
  done
  return 1
}
need_java_home() { java=$(java_home) || die "no Java $java_major here; run: $self install, or set PARLEY_ENGINES_JAVA_HOME"; }
need_java() { java_home >/dev/null || apt_install "$java_package"; }

# Outside a project, Maven makes ${project.basedir} in the directory where it runs.
mvn_quiet() (
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  cd "$scratch"
  mvn -B -q "$@" 2>&1 | sed $'s/\e\\[[0-9;]*m//g'
)
plugin=org.apache.maven.plugins:maven-dependency-plugin:$maven_dependency_plugin

# jars DIRECTORY GROUP:ARTIFACT:VERSION…: the artifacts and all they need at run time.
jars() {
  local target=$1 pom group artifact version status=0
  shift
  pom=$(mktemp -d)
  {
    say '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
    say '<groupId>engines</groupId><artifactId>engine</artifactId><version>1</version><packaging>pom</packaging><dependencies>'
    while IFS=: read -r group artifact version; do
      say "<dependency><groupId>$group</groupId><artifactId>$artifact</artifactId><version>$version</version></dependency>"
    done < <(printf '%s\n' "$@")
    say '</dependencies></project>'
  } >"$pom/pom.xml"
  mvn_quiet --strict-checksums -f "$pom/pom.xml" "$plugin:copy-dependencies" -DincludeScope=runtime -DoutputDirectory="$target" || status=$?
  rm -rf "$pom"
  return "$status"
}
# unpacked DIRECTORY ARTIFACT SHA256: an archive's content. Not every archive has a checksum
# beside it in the repository, so ours is compared.
unpacked() {
  local archive
  mvn_quiet "$plugin:copy" -Dartifact="$2" -DoutputDirectory="$1/archive" || return 1
  archive=("$1"/archive/*)
  sha256sum --quiet -c <<<"$3  ${archive[0]}" || return 1
  rm -rf "$1/archive"
  mvn_quiet "$plugin:unpack" -Dartifact="$2" -DoutputDirectory="$1"
}

# keep NAME COMMAND ARGUMENT…: runs `COMMAND DIRECTORY ARGUMENT…` once and keeps the directory in the cache.
# It gets its name when it is whole, so that a broken download is never taken for one.
keep() {
  local name=$1 part=$cache/$1.part t
  [[ ! -d $cache/$name ]] || return 0
  t=$(now_ms)
  need_packages mvn:maven
  rm -rf "$part"
  mkdir -p "$part"
  "$2" "$part" "${@:3}" || die "could not download $name; 'mvn' said why above"
  chmod -R a+rX "$part"
  mv "$part" "$cache/$name"
  say "downloaded $name in $(since "$t")"
}

# kept NAME: where it is, or the way to have it.
kept() {
  [[ -d $cache/$1 ]] || die "$1 isn't installed; run: $self install"
  as_user test -r "$cache/$1" || die "$engine_user can't read $cache/$1; set PARLEY_ENGINES_CACHE to a directory all can read"
  printf '%s' "$cache/$1"
}

install_engines() {
  local engine home=/
  umask 022
  mkdir -p "$cache" || die "can't make $cache; set PARLEY_ENGINES_CACHE"
  exec 9>"$cache/.lock"
  flock -w 900 9 || die "another install holds $cache/.lock"
  need_packages pgrep:procps curl:curl
  ensure_user
  need_java
  for engine in "$@"; do hook install; done
  exec 9>&-
  say "installed in $cache: $*"
}
