#!/bin/sh
# Install the Debian packages of a list, one a line, that this machine lacks: other people's programs, which the tests
# run. No service is started, so none of them takes a port. Ends with 1 when something is not there in the end; the
# tests that need it skip themselves.
set -eu
policy=${POLICY_RC_D:-/usr/sbin/policy-rc.d} # what Debian asks whether a service may start

give_up() {
  echo "$1: the tests that run programs from Debian will be skipped."
  exit 1
}

command -v apt-get >/dev/null && command -v dpkg-query >/dev/null || give_up "There is no apt-get"
missing=
while read -r name; do
  status=$(dpkg-query --show --showformat '${db:Status-Status}' "$name" 2>/dev/null || true)
  [ "$status" = installed ] || missing="$missing $name"
done <"$1"
[ -n "$missing" ] || exit 0
[ "$(id -u)" = 0 ] || give_up "Only root may install$missing"

echo "Installing what the tests run from Debian:$missing"
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy" # it may not
  chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
get="apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0"
# shellcheck disable=SC2086 # words
{ $get update && $get install --yes --no-install-recommends $missing; } >/dev/null || give_up "apt-get has failed"
