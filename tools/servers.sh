#!/bin/sh
# Installs Debian's packages that are missing, for tests on real servers: servers.sh PACKAGE...
#
# Debian starts a server when it is installed. Tests start their own, so a policy keeps these from
# being started, and the policy that was there before is put back.
set -eu

missing=
for package in "$@"; do
    status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "These servers are needed and can't be installed here (no apt-get):$missing" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "These servers are needed:$missing" >&2
    echo "Install them as root, then try again:  apt-get install --no-install-recommends$missing" >&2
    echo "(Debian starts them then; the tests do not use those, so: systemctl disable --now ...)" >&2
    exit 1
fi

policy=/usr/sbin/policy-rc.d
kept=
if [ -e "$policy" ]; then
    kept=$(mktemp)
    cp -p "$policy" "$kept"
fi
restore() {
    if [ -n "$kept" ]; then
        cp -p "$kept" "$policy"
        rm -f "$kept"
    else
        rm -f "$policy"
    fi
}
trap restore EXIT
trap 'exit 1' INT TERM
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

echo "Installing Debian's packages:$missing"
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086  # one word per package
if ! { apt-get update && apt-get install --yes --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    exit 1
fi
rm -f "$log"
