#!/bin/sh
# Makes what the tests need, and runs every test there is:
#
#     sh tests/run.sh                     all of it, as CI does; as root, since most of what is promised shows only there
#     sh tests/run.sh tests/core -k idl   pytest with these arguments, in the same surroundings
#     sh tests/run.sh --bench [NAME...]   no tests: measures how fast the broker is (--help: more of it); needs root
#
# As root it installs what is missing from Debian, and runs the tests in mount and network namespaces of their own with an empty
# /run, so that the machine's own users, sockets and directories are neither seen nor touched. Without root it runs what can be
# run and says what it left out. What it makes is kept for the next time, outside the checkout. Nothing is skipped for want of a
# tool: what cannot be had fails the run.

set -eu
umask 022
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin # the system's own python3, whatever else is installed
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONWARNINGS VIRTUAL_ENV CDPATH LANGUAGE
export LC_ALL=C.UTF-8 # a language that is not there is complained of by each program
python=/usr/bin/python3
checkout=$(readlink -e -- "$(dirname -- "$0")/..")
if [ "$(id -u)" = 0 ]; then
    cache=/var/cache/sockbroker-tests
else
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/sockbroker-tests
fi
venv=$cache/venv

say() {
    printf 'tests/run.sh: %s\n' "$*"
}

fail() {
    printf 'tests/run.sh: %s\n' "$*" >&2
    exit 1
}

# ---- Tools ----------------------------------------------------------------------------------------------------------------------

# What the tests run, each with the Debian package that has it.
tools='git git
nc.openbsd netcat-openbsd
strace strace
setfacl acl
varlink-go-certification varlink-go
shellcheck shellcheck
setpriv util-linux
unshare util-linux
mount mount
ip iproute2
man man-db
systemd-analyze systemd
getent libc-bin
ps procps
xz xz-utils
cc gcc
faketime faketime'

# What the bench measures the broker against. It says in its table what it could not have.
peers='dbus-daemon dbus-daemon
sudo sudo
/lib/systemd/systemd-userdbd systemd-userdbd'

install_tools() {
    missing=$(missing_of "$tools")
    [ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
    "$python" -I -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing="$missing debian-archive-keyring"
    [ -n "$missing" ] || return 0
    [ "$(id -u)" = 0 ] || fail "these packages are missing:$missing. Install them, or run this as root, which does"
    install_packages "$missing" || fail "apt-get cannot install$missing"
}

install_peers() {
    for package in $(missing_of "$peers"); do
        install_packages " $package" || say "apt-get cannot install $package"
    done
}

missing_of() {
    printf '%s\n' "$1" | while read -r command package; do
        command -v "$command" >/dev/null || printf ' %s' "$package"
    done
}

install_packages() {
    say "installing$1"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null || say 'the package lists could not all be renewed'
    # shellcheck disable=SC2086 # a list of words
    apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=600 $1 </dev/null >"$cache/apt.log" 2>&1 || {
        cat "$cache/apt.log" >&2
        return 1
    }
}

# A virtual environment with the daemon's packages, those of the tests, and the checkout's own sources ($1). The wheels are kept:
# the installer is tested with them where there is no network.
make_venv() {
    wanted=$({
        cat "$checkout/systemd/requirements.lock" "$checkout/systemd/build.lock" "$checkout/tests/requirements.txt" "$0"
        grep '^version = ' "$checkout/pyproject.toml"
        "$python" --version
        printf '%s\n' "$1"
    } | sha256sum)
    [ "$(cat "$venv/made-from" 2>/dev/null)" != "$wanted" ] || return 0
    say "making $venv"
    rm -rf "$venv" "$cache/wheels"
    "$python" -I -m venv "$venv" || fail 'python3-venv is missing'
    pip="$venv/bin/python -I -m pip --disable-pip-version-check -q"
    for lock in requirements build; do
        $pip download --only-binary :all: --require-hashes -d "$cache/wheels" -r "$checkout/systemd/$lock.lock"
    done
    $pip install --no-index --find-links "$cache/wheels" --require-hashes -r "$checkout/systemd/requirements.lock"
    $pip install --only-binary :all: -r "$checkout/tests/requirements.txt"
    # The commands as an installation has them, on the sources as they are.
    packages=$("$venv/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$checkout/pyproject.toml")
    printf '%s\n' "$1/src" >"$packages/sockbroker.pth"
    mkdir "$packages/sockbroker-$version.dist-info"
    printf 'Metadata-Version: 2.1\nName: sockbroker\nVersion: %s\n' "$version" >"$packages/sockbroker-$version.dist-info/METADATA"
    for command in 'sockbrokerd daemon' 'sockbrokerctl ctl'; do
        cat >"$venv/bin/${command% *}" <<LAUNCHER
#!$venv/bin/python -IS
import sys
sys.pycache_prefix = "$cache/pycache"
sys.path += ["$1/src", "$packages"]
from sockbroker.${command#* } import main
sys.exit(main())
LAUNCHER
        chmod 755 "$venv/bin/${command% *}"
    done
    # Compiled now, because what compiling other people's code warns of would be an error in a test.
    rm -rf "$cache/pycache"
    PYTHONPYCACHEPREFIX=$cache/pycache "$venv/bin/python" -W ignore -m compileall -q "$packages"
    printf '%s\n' "$wanted" >"$venv/made-from"
}

# varlinkctl is in no Debian before 13: that release's, with the libraries that it needs, in a folder of its own.
make_varlinkctl() {
    ! "$cache/bin/varlinkctl" --version >/dev/null 2>&1 || return 0
    say 'fetching varlinkctl from Debian 13'
    root=$cache/trixie
    rm -rf "$root" "$cache/bin/varlinkctl"
    mkdir -p "$root/lists/partial" "$root/archives/partial" "$root/packages" "$cache/bin"
    mirror=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -n 1)
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s trixie main\n' \
        "${mirror:-http://deb.debian.org/debian}" >"$root/sources.list"
    set -- -qq -o "Dir::Etc::sourcelist=$root/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$root/lists" \
        -o "Dir::Cache=$root" -o Dir::State::status=/dev/null -o APT::Sandbox::User=root
    apt-get "$@" update
    wanted=$(apt-cache "$@" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
        systemd | grep -E '^(lib|systemd|zlib)' | grep -vE 'perl|dpkg|:' | sort -u)
    # shellcheck disable=SC2086 # a list of words
    (cd "$root/packages" && apt-get "$@" download $wanted)
    for package in "$root"/packages/*.deb; do
        dpkg-deb -x "$package" "$root/root"
    done
    loader=$(find "$root/root" -name 'ld-linux*.so.*' | head -n 1)
    libraries=$(dirname "$(find "$root/root" -name 'libsystemd-shared-*.so' | head -n 1)")
    cat >"$cache/bin/varlinkctl" <<WRAPPER
#!/bin/sh
exec $loader --library-path $libraries:${libraries%/systemd} $root/root/usr/bin/varlinkctl "\$@"
WRAPPER
    chmod 755 "$cache/bin/varlinkctl"
    rm -rf "$root/packages" "$root/lists" "$root"/*.bin
    "$cache/bin/varlinkctl" --version >/dev/null || fail 'varlinkctl does not run'
}

# ---- Running --------------------------------------------------------------------------------------------------------------------

# The core is judged by its own tests alone: every branch, without the network, the disk or the clock.
test_all() {
    result=0
    say 'the core, with the coverage of its branches'
    coverage run -m pytest -q tests/core || result=1
    coverage report --include='*/sockbroker/core/*' --fail-under=100 || result=1
    say 'everything else'
    python -m pytest --durations=10 --ignore=tests/core tests || result=1
    [ "$result" = 0 ] || say FAILED
    return "$result"
}

if [ "${1-}" = --in-namespaces ]; then
    shift
    if [ "$(id -u)" = 0 ]; then
        # /run as systemd makes it; the checkout where every uid can reach it, wherever it is.
        mount -t tmpfs -o mode=0755,nosuid,nodev,size=50% tmpfs /run
        mount --bind "$checkout" /mnt
        ip link set lo up
        cd /mnt
        hard=$(prlimit --pid $$ --nofile --output HARD --noheadings --raw)
        [ "$hard" = unlimited ] || [ "$hard" -ge 20000 ] || prlimit --pid $$ --nofile=:20000
        nobody='setpriv --reuid 65534 --regid 65534 --clear-groups'
        $nobody test -r /mnt/src/sockbroker/__init__.py ||
            fail "$checkout cannot be read by every user, and some of the tests are run as others: chmod -R a+rX '$checkout'"
        $nobody unshare --user --map-root-user true ||
            fail 'users cannot have user namespaces here, and the tests are attacks from there as well: see the sysctls' \
                'kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns'
    else
        cd "$checkout"
    fi
    PATH=$venv/bin:$cache/bin:$PATH
    # Nothing is left in the checkout, which may be somebody else's.
    export PATH PYTHONPYCACHEPREFIX="$cache/pycache" HYPOTHESIS_STORAGE_DIRECTORY="$cache/hypothesis" COVERAGE_FILE="$cache/coverage" \
        MYPY_CACHE_DIR="$cache/mypy" RUFF_CACHE_DIR="$cache/ruff" PYTEST_ADDOPTS="-p no:cacheprovider --no-skips" \
        SOCKBROKER_TEST_CACHE="$cache"
    if [ "${1-}" = --bench ]; then
        shift
        exec python tests/bench "$@"
    fi
    if [ $# -gt 0 ]; then
        exec python -m pytest "$@"
    fi
    test_all
    exit
fi

mkdir -p "$cache"
umask 077 # or any user could open the lock and hold it
exec 9>"$cache/lock"
umask 022
flock 9 # the tools are made by one run at a time
[ "${1-}" != --bench ] || [ "$(id -u)" = 0 ] || fail 'the bench needs root: it starts the broker, and asks it as many users'
install_tools
[ "${1-}" != --bench ] || install_peers
make_varlinkctl
if [ "$(id -u)" = 0 ]; then
    make_venv /mnt
    exec 9>&-
    exec unshare --mount --net --propagation private sh "$checkout/tests/run.sh" --in-namespaces "$@"
fi
make_venv "$checkout"
exec 9>&-
say 'NOT ROOT: whatever needs other users, a /run of its own or a booted systemd is LEFT OUT'
exec sh "$checkout/tests/run.sh" --in-namespaces "$@"
