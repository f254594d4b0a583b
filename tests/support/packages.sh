# packages.sh: sees to Debian packages; to be sourced by scripts that need some.
# Says nothing and takes no time when all are there.

# die LINE...: say why, and end.
die() { printf 'prepare: %s\n' "$@" >&2; exit 1; }

missing_packages() {
  local package
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
  done
}

install() {
  env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

# install_packages WHO PACKAGE...: install what is missing; WHO needs it.
install_packages() {
  local who=$1 missing
  shift
  mapfile -t missing < <(missing_packages "$@")
  [ ${#missing[@]} -gt 0 ] || return 0
  local command="apt-get install --no-install-recommends ${missing[*]}"
  echo "$who need these Debian packages: ${missing[*]}"
  # The lists of packages are fetched only if what is known is too old: that takes long, and mostly is not needed.
  install "${missing[@]}" || { apt-get update && install "${missing[@]}"; } ||
    die "they could not be installed; see above. By hand, as root: $command"
}

# require_programs PACKAGES PROGRAM...: all on PATH, or end and name the packages that hold them.
require_programs() {
  local packages=$1 program
  shift
  for program in "$@"; do
    command -v "$program" >/dev/null || die "$program is missing. On Debian: apt-get install $packages"
  done
}

require_java() {
  command -v "${JAVA:-java}" >/dev/null || die "Java 17 or newer is missing: apt-get install openjdk-17-jre-headless"
}
