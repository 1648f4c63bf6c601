# shellcheck shell=bash
# shellcheck disable=SC1091,SC2016 # /etc/os-release is the machine's; the hooks are for another shell to expand.
# What the scripts need on the machine: packages, a Docker Engine, a base image, a Python environment.
#
# Source it; each need_* function returns at once and prints nothing when its thing is in place. Where it has
# to install or start something it says so first, on standard error, and asks nothing.

GPUD_ROOT=${GPUD_ROOT:-$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)}
GPUD_ENGINE_RUN_DIR=${GPUD_ENGINE_RUN_DIR:-/run/gpud-engine}
GPUD_BASE_IMAGE=${GPUD_BASE_IMAGE:-gpud/python-base:12}
GPUD_BASE_IMAGE_PULL_TIMEOUT_S=${GPUD_BASE_IMAGE_PULL_TIMEOUT_S:-20}

_gpud_say() { printf '%s\n' "$*" >&2; }

_gpud_fail() {
  printf 'error: %s\n' "$*" >&2
  return 1
}

_gpud_cache_dir() {
  if [[ -n ${GPUD_CACHE_DIR:-} ]]; then
    printf '%s\n' "$GPUD_CACHE_DIR"
  elif [[ $EUID -eq 0 ]]; then
    printf '/var/cache/gpud\n'
  else
    printf '%s\n' "${XDG_CACHE_HOME:-$HOME/.cache}/gpud"
  fi
}

# need_packages PKG...: Debian packages, those that are missing.
need_packages() {
  local package state missing=()
  # One call for all: dpkg-query takes a few milliseconds for each start. It fails when a package is unknown.
  local known
  known=$(dpkg-query --show --showformat='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true)
  for package in "$@"; do
    state=" $(tr '\n' ' ' <<<"$known")"
    [[ $state == *" $package installed "* ]] || missing+=("$package")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  if [[ $EUID -ne 0 ]]; then
    _gpud_fail "these Debian packages are missing and only root can install them: ${missing[*]}
  Run: apt-get install --no-install-recommends ${missing[*]}"
    return 1
  fi
  _gpud_say "Installing Debian packages: ${missing[*]}"
  local log
  log=$(mktemp)
  if ! { apt-get update -q && _gpud_apt_install "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    _gpud_fail "apt-get could not install ${missing[*]}; the end of its output is above"
    return 1
  fi
  rm -f "$log"
}

_gpud_apt_install() {
  # Services are not started by the package: on a machine without a service manager that fails, and on one
  # with it need_engine starts Docker itself.
  DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get install -q -y --no-install-recommends \
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
}

_gpud_engine_answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# need_engine: a Docker Engine that answers at DOCKER_HOST or the usual socket. Where there is none and
# DOCKER_HOST is not set, installs docker.io and starts it.
need_engine() {
  if command -v docker >/dev/null && _gpud_engine_answers; then
    return 0
  fi
  if [[ -n ${DOCKER_HOST:-} && $DOCKER_HOST != unix:///var/run/docker.sock ]]; then
    if ! command -v docker >/dev/null; then
      _gpud_need_docker_client && _gpud_engine_answers && return 0
    fi
    _gpud_fail "no Docker Engine answers at DOCKER_HOST=$DOCKER_HOST
  Start that engine, or unset DOCKER_HOST to use one on this machine."
    return 1
  fi
  if [[ $EUID -ne 0 ]]; then
    _gpud_fail "no Docker Engine answers at /var/run/docker.sock, and only root can install or start one
  Run this as root once, start Docker, or add yourself to the group docker."
    return 1
  fi
  command -v dockerd >/dev/null && command -v iptables >/dev/null || need_packages docker.io iptables ca-certificates || return 1
  _gpud_need_docker_client || return 1
  if _gpud_engine_answers; then
    return 0
  fi
  if [[ -d /run/systemd/system ]]; then
    _gpud_say "Starting the Docker Engine (systemctl start docker)"
    if ! systemctl start docker; then
      journalctl --unit docker --lines 20 --no-pager >&2 || true
      _gpud_fail "systemctl could not start docker; the end of its log is above"
      return 1
    fi
    _gpud_wait_for_engine "" || { _gpud_fail "docker runs but does not answer at /var/run/docker.sock"; return 1; }
  else
    _gpud_start_engine
  fi
}

_gpud_need_docker_client() {
  command -v docker >/dev/null && return 0
  # Debian 12 has the client in docker.io; later releases have it apart.
  if apt-cache show docker-cli >/dev/null 2>&1; then
    need_packages docker-cli
  else
    need_packages docker.io
  fi
}

_gpud_start_engine() {
  local log=$GPUD_ENGINE_RUN_DIR/dockerd.log pid
  _gpud_say "Starting the Docker Engine: dockerd in the background, log in $log"
  mkdir -p "$GPUD_ENGINE_RUN_DIR"
  # A dockerd that was killed leaves its pid file, and with the pid taken by another process it refuses to start.
  if [[ -f /var/run/docker.pid ]] && ! _gpud_is_dockerd "$(cat /var/run/docker.pid)"; then
    rm -f /var/run/docker.pid
  fi
  setsid dockerd </dev/null >"$log" 2>&1 &
  pid=$!
  disown "$pid"
  if _gpud_wait_for_engine "$pid"; then
    # setsid forks when it leads a process group, so the daemon's own word is taken for its pid.
    cp /var/run/docker.pid "$GPUD_ENGINE_RUN_DIR/dockerd.pid"
    return 0
  fi
  tail -n 20 "$log" >&2 || true
  _gpud_fail "dockerd did not answer within 60 s; the end of its log ($log) is above"
}

# Waits for the engine to answer; gives up after 60 s, or at once when the given process has ended.
_gpud_wait_for_engine() {
  local pid=$1 deadline=$((SECONDS + 60))
  until _gpud_engine_answers; do
    [[ $SECONDS -lt $deadline ]] || return 1
    if [[ -n $pid ]] && ! kill -0 "$pid" 2>/dev/null && ! _gpud_is_dockerd "$(cat /var/run/docker.pid 2>/dev/null)"; then
      return 1
    fi
    sleep 0.1
  done
}

_gpud_is_dockerd() { [[ -n ${1:-} && $(cat "/proc/$1/comm" 2>/dev/null) == dockerd ]]; }

# stop_engine: stops the engine that need_engine started itself, and no other.
stop_engine() {
  local pid_file=$GPUD_ENGINE_RUN_DIR/dockerd.pid pid
  [[ -f $pid_file ]] || return 0
  pid=$(cat "$pid_file")
  if _gpud_is_dockerd "$pid"; then
    _gpud_say "Stopping the Docker Engine that was started here"
    kill -TERM "$pid"
    local deadline=$((SECONDS + 30))
    while _gpud_is_dockerd "$pid"; do
      [[ $SECONDS -lt $deadline ]] || { _gpud_fail "dockerd (pid $pid) did not stop within 30 s"; return 1; }
      sleep 0.1
    done
  fi
  rm -f "$pid_file"
}

# need_base_image: the image that gpud's own images start from, on the engine in use. python:3.12-slim where it
# can be pulled, else one made from the Debian archive that this machine's apt is set up for.
need_base_image() {
  local archive recipe
  # An image made here names its recipe, so that a changed recipe makes a new one; a pulled image names none.
  if recipe=$(docker image inspect --format '{{index .Config.Labels "gpud.base"}}' "$GPUD_BASE_IMAGE" 2>/dev/null) &&
    [[ -z $recipe || $recipe == "<no value>" ]]; then
    return 0
  fi
  archive=$(_gpud_base_archive_path) || return 1
  if [[ $recipe == "${archive##*/}" ]]; then
    return 0
  fi
  # An archive made earlier means that pulling did not work here, and a pull that cannot work may take its limit.
  if [[ ! -s $archive ]]; then
    _gpud_say "Pulling python:3.12-slim (at most $GPUD_BASE_IMAGE_PULL_TIMEOUT_S s)"
    if timeout "$GPUD_BASE_IMAGE_PULL_TIMEOUT_S" docker pull -q python:3.12-slim >/dev/null 2>&1; then
      docker tag python:3.12-slim "$GPUD_BASE_IMAGE"
      return 0
    fi
    _gpud_say "It cannot be pulled here; making a base image from Debian packages instead"
  fi
  need_base_archive >/dev/null || return 1
  _gpud_say "Importing the base image $GPUD_BASE_IMAGE"
  docker import --change 'CMD ["python3"]' --change 'ENV LANG=C.UTF-8' \
    --change "LABEL gpud.base=${archive##*/}" \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    "$archive" "$GPUD_BASE_IMAGE" >/dev/null
}

_gpud_base_packages=python3,libstdc++6,ca-certificates,base-files,netbase,dash,bash,coreutils,findutils,grep,sed,libc-bin,tar,gzip

_gpud_base_archive_path() {
  local codename recipe
  codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
  if [[ -z $codename ]]; then
    _gpud_fail "a base image can be made only on Debian or a system derived from it (no VERSION_CODENAME in /etc/os-release)"
    return 1
  fi
  recipe=$({ printf '%s' "$_gpud_base_packages"; declare -f _gpud_make_base_archive; } | sha256sum)
  printf '%s/python-base-%s-%s.tar\n' "$(_gpud_cache_dir)" "$codename" "${recipe:0:12}"
}

# need_base_archive: prints the path of the base image's file system as a tar file, made once and kept.
need_base_archive() {
  local archive
  archive=$(_gpud_base_archive_path) || return 1
  if [[ ! -s $archive ]]; then
    need_packages mmdebstrap || return 1
    mkdir -p "${archive%/*}"
    (
      flock 9 # Two runs at once: the second waits and finds the archive made.
      [[ -s $archive ]] || _gpud_make_base_archive "$archive"
    ) 9>"$archive.lock" || return 1
  fi
  printf '%s\n' "$archive"
}

_gpud_make_base_archive() {
  local archive=$1 codename sources log aptopt
  codename=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
  # The packages come from where this machine's apt takes them; files of other vendors are left out.
  mapfile -t sources < <(grep -lsw -- "$codename" /etc/apt/sources.list /etc/apt/sources.list.d/*.list \
    /etc/apt/sources.list.d/*.sources | xargs -r grep -lw main)
  if [[ ${#sources[@]} -eq 0 ]]; then
    _gpud_fail "no apt source for $codename under /etc/apt, so no base image can be made"
    return 1
  fi
  _gpud_say "Making the base image from Debian packages (about 10 s, once): $_gpud_base_packages"
  log=$(mktemp) aptopt=$(mktemp)
  # Proxies, certificates and date checks as the host's apt has them.
  apt-config dump | grep -E '^Acquire::(https?|ftp|Check-|Retries|AllowInsecure)' >"$aptopt" || true
  if ! mmdebstrap --mode=root --variant=extract --include="$_gpud_base_packages" --aptopt="$aptopt" \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --extract-hook='cat "$1"/usr/share/ca-certificates/mozilla/*.crt >"$1/etc/ssl/certs/ca-certificates.crt"' \
    --extract-hook='printf "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n" >"$1/etc/passwd"' \
    --extract-hook='printf "root:x:0:\nnogroup:x:65534:\n" >"$1/etc/group"; printf "hosts: files dns\n" >"$1/etc/nsswitch.conf"' \
    --extract-hook='mkdir -p -m 1777 "$1/tmp" "$1/var/tmp"; mkdir -p "$1/proc" "$1/sys" "$1/root" "$1/run"' \
    --extract-hook='find "$1/etc/apt" -type f ! -name 00mmdebstrap -delete; rm -f "$1/etc/hostname" "$1/etc/resolv.conf"' \
    --extract-hook='cd "$1/usr/share" && rm -rf doc man locale info lintian perl5 bash-completion' \
    --extract-hook='chroot "$1" python3 -c "import ssl, ctypes, sqlite3, http.server, zlib, bz2, lzma, uuid, hashlib"' \
    --extract-hook='chroot "$1" python3 -m compileall -q -j 0 -x "idlelib|lib2to3|pydoc_data" "$(chroot "$1" python3 -c "import os; print(os.path.dirname(os.__file__))")"' \
    "$codename" "${archive%.tar}.part.tar" "${sources[@]}" >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    rm -f "$log" "$aptopt" "${archive%.tar}.part.tar"
    _gpud_fail "mmdebstrap could not make the base image; the end of its output is above"
    return 1
  fi
  rm -f "$log" "$aptopt"
  mv "${archive%.tar}.part.tar" "$archive" # Whole or not at all.
}

# need_venv LOCK...: .venv at the repository's root with the packages of the lock files (all of requirements/*.lock
# when none is named) and gpud itself, importable from its source folder.
need_venv() {
  local locks=("$@") venv=$GPUD_ROOT/.venv stamp wanted
  [[ ${#locks[@]} -gt 0 ]] || locks=("$GPUD_ROOT"/requirements/*.lock)
  if [[ ! -f ${locks[0]} ]]; then
    _gpud_fail "no lock file: ${locks[0]}"
    return 1
  fi
  stamp=$venv/.gpud-locks
  wanted=$(cat "${locks[@]}" | sha256sum)
  if [[ -x $venv/bin/python && -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    return 0
  fi
  if [[ ! -x $venv/bin/python ]]; then
    local python
    python=$(_gpud_python) || return 1
    _gpud_say "Making a Python environment in $venv"
    "$python" -m venv "$venv" || { _gpud_fail "$python could not make $venv"; return 1; }
  fi
  local requirements=() lock
  for lock in "${locks[@]}"; do requirements+=(--requirement "$lock"); done
  _gpud_say "Installing the Python packages of ${locks[*]#"$GPUD_ROOT"/} into $venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
    "${requirements[@]}" >&2 || { _gpud_fail "pip could not install the packages; see above"; return 1; }
  # A path file and a launcher do what an editable install does, without building anything.
  local site
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  printf '%s\n' "$GPUD_ROOT" >"$site/gpud-source.pth"
  printf '#!%s\nimport sys\n\nfrom gpud.__main__ import main\n\nsys.exit(main())\n' "$venv/bin/python" >"$venv/bin/gpud"
  chmod +x "$venv/bin/gpud"
  printf '%s\n' "$wanted" >"$stamp"
}

# The newest Python of this machine that gpud runs on and that can make environments.
_gpud_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    if command -v "$name" >/dev/null &&
      "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      # Debian has ensurepip, without which an environment has no pip, in a package of its own.
      "$name" -c 'import ensurepip, venv' 2>/dev/null || need_packages python3-venv || return 1
      printf '%s\n' "$name"
      return 0
    fi
  done
  need_packages python3 python3-venv || return 1
  printf 'python3\n'
}
