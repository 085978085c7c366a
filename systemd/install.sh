#!/bin/sh
# Installs sockbroker from this checkout and starts it, or upgrades what an earlier run has installed:
#
#     sh systemd/install.sh                        as root or with sudo; again at any time, also after a failure
#     sh systemd/install.sh --uninstall [--force]  takes it away; directories in use are kept unless forced
#
# The program is a virtual environment of the system's own python3 below /opt/sockbroker, one folder for each installation and one
# link, `current`, to the one in use. The units go to /etc/systemd/system, which is root's everywhere (/usr/local is writable by
# group staff on older Debians), and where `systemctl edit` can still change them without touching our files. The policy is written
# only if there is none.
#
# It runs as root in a checkout that may be somebody else's, so it takes nothing from its caller that it has not judged.

set -eu

opt=/opt/sockbroker
policy=/etc/sockbroker.yaml
units=/etc/systemd/system
manuals=/usr/local/share/man
python=/usr/bin/python3
certificates=/etc/ssl/certs/ca-certificates.crt
sockets='sockbroker.socket sockbroker-path.socket sockbroker-operator.socket'

# ---- Telling --------------------------------------------------------------------------------------------------------------------

number=0 doing=starting mend='' work=''

# step WHAT MEND: what is done now, and what to do should it fail.
step() {
    number=$((number + 1)) doing=$1 mend=$2
    printf '[%s/%s] %s\n' "$number" "$steps" "$1"
}

note() {
    printf '      %s\n' "$*"
}

# fail WHY [MEND]
fail() {
    why=$1
    [ $# -lt 2 ] || mend=$2
    exit 1
}

# What comes from others is shown without its control characters.
show() {
    cat -v -- "$1" | sed 's/^/      /'
}

finish() {
    status=$?
    trap - EXIT HUP INT TERM
    [ -z "$work" ] || rm -rf -- "$work"
    [ "$status" = 0 ] || printf 'install.sh: failed while %s%s\n%s\n' "$doing" "${why:+: $why}" \
        "${mend:-Run the same command again, it goes on from wherever it stopped.}" >&2
    exit "$status"
}

# ---- Judging what is there ------------------------------------------------------------------------------------------------------

# Whether everything on the way to $1 is root's and nobody else can write it. Leaves the first that is not in $suspect.
is_roots() {
    suspect=$(readlink -e -- "$1") || return 1
    while [ -n "$(find "$suspect" -prune -uid 0 ! -perm /022)" ]; do
        [ "$suspect" != / ] || return 0
        suspect=$(dirname -- "$suspect")
    done
    return 1
}

demand_roots() {
    is_roots "$1" || fail "$suspect is not root's alone" \
        "What root runs from there could be changed by others. Mend it (chown root:root $suspect; chmod go-w $suspect), then run again."
}

# Refuses what has a name that we need and was not put there by us.
refuse_others() {
    if [ -e "$opt" ] || [ -L "$opt" ]; then
        [ ! -L "$opt" ] && [ -f "$opt/.made-by-sockbroker" ] || [ -z "$(ls -A "$opt" 2>&1)" ] ||
            fail "$opt is there, and is not ours" "Move it away, then run again."
    fi
    while read -r link target; do
        if [ -e "$link" ] || [ -L "$link" ]; then
            [ "$(readlink -- "$link")" = "$target" ] || fail "$link is there, and is not ours" "Move it away, then run again."
        fi
    done <<LINKS
$links
LINKS
    for unit in $sockets sockbroker.service; do
        if [ -e "$units/$unit" ] || [ -L "$units/$unit" ]; then
            is_our_unit "$unit" || fail "$units/$unit is there, and is not ours" \
                "Move it away, then run again. To change our unit, use: systemctl edit $unit"
        fi
    done
}

is_our_unit() {
    [ ! -L "$units/$1" ] && [ -f "$units/$1" ] && head -n 1 -- "$units/$1" | grep -q '^# Part of sockbroker: '
}

links="/usr/local/bin/sockbrokerctl $opt/current/bin/sockbrokerctl
/usr/local/sbin/sockbrokerd $opt/current/bin/sockbrokerd
$manuals/man1/sockbrokerctl.1 $opt/current/share/man/man1/sockbrokerctl.1
$manuals/man5/sockbroker.yaml.5 $opt/current/share/man/man5/sockbroker.yaml.5
$manuals/man8/sockbrokerd.8 $opt/current/share/man/man8/sockbrokerd.8"

systemd_runs() {
    [ -d /run/systemd/system ]
}

# ---- Installing -----------------------------------------------------------------------------------------------------------------

install_packages() {
    set --
    "$python" -I -c 'import ensurepip, venv' 2>/dev/null || set -- "$@" python3-venv
    [ -x /usr/bin/git ] || set -- "$@" git
    [ -e "$certificates" ] || set -- "$@" ca-certificates
    [ $# -gt 0 ] || return 0
    note "from Debian: $*"
    [ -x /usr/bin/apt-get ] || fail "these are missing: $*" "Install them with this system's package manager, then run again."
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=120 update -qq </dev/null 9>&- || note 'the package lists could not all be renewed'
    apt-get -o DPkg::Lock::Timeout=120 install -y -qq --no-install-recommends "$@" </dev/null >"$work/apt" 2>&1 9>&- || {
        show "$work/apt"
        fail "apt-get install $*"
    }
}

# The tracked files, as they are in the work tree, to $work/source. git obeys the configuration of the checkout, which can name
# programs to run, so it runs as the owner of the checkout and away from our terminal. Its answer and the files are his: names are
# checked, links are not followed, and only plain files are taken.
copy_tracked_files() {
    owner=$(stat -c %u -- "$checkout")
    set -- env -i "PATH=$PATH" HOME=/nonexistent git -c core.fsmonitor=false -C "$checkout" \
        ls-files -z --cached -- pyproject.toml README.md LICENSE src etc systemd
    if [ "$owner" != 0 ]; then
        set -- setpriv "--reuid=$owner" "--regid=$(stat -c %g -- "$checkout")" --clear-groups --inh-caps=-all --no-new-privs -- "$@"
    fi
    setsid -w "$@" </dev/null >"$work/tracked" 2>"$work/git" 9>&- || {
        show "$work/git"
        fail "git does not list the files of $checkout" "It has to be a git checkout that its owner can read."
    }
    "$python" -I - "$checkout" "$work/source" "$work/tracked" <<'PYTHON'
import os
import stat
import sys

checkout, destination, listing = sys.argv[1:]
DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
names = [os.fsdecode(name) for name in open(listing, "rb").read().split(b"\0") if name]
if "src/sockbroker/__init__.py" not in names:
    sys.exit("src/sockbroker is not among the tracked files")
for name in names:
    parts = name.split("/")
    if not set(parts).isdisjoint({"", ".", "..", ".git"}):
        sys.exit(f"git lists {name!r}, which is not a name of a file of ours")
    folder = os.open(checkout, DIRECTORY)
    try:
        for part in parts[:-1]:
            below = os.open(part, DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = below
        file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except FileNotFoundError:
        continue  # tracked, and deleted since
    except OSError as error:
        sys.exit(f"{name!r} is not a plain file in plain folders: {error.strerror}")
    finally:
        os.close(folder)
    with open(file, "rb") as source:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            sys.exit(f"{name!r} is not a plain file")
        target = os.path.join(destination, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "xb") as copy:
            copy.write(source.read())
PYTHON
}

# pip as root's own configuration says (/etc/pip.conf, ~root), with the system's certificates unless that names others.
run_pip() {
    "$work/build/bin/python3" -I -m pip "$@" >"$work/pip" 2>&1 </dev/null 9>&- || {
        show "$work/pip"
        fail 'pip does not succeed' "If the package index cannot be reached: pip is configured in /etc/pip.conf. Then run again."
    }
}

build() {
    "$python" -I -m venv "$work/build" >"$work/pip" 2>&1 9>&- || {
        show "$work/pip"
        fail 'a virtual environment cannot be made' "Install python3-venv, then run again."
    }
    "$work/build/bin/python3" -I -m pip config list 2>/dev/null | grep -q '\.cert=' || [ ! -e "$certificates" ] ||
        export "PIP_CERT=$certificates"
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
    run_pip install --require-hashes --only-binary :all: -r "$source/systemd/build.lock"
    run_pip wheel --no-deps --no-index --no-build-isolation --wheel-dir "$work" "$source"

    # Nothing refers to this folder until the link is swapped, so it is filled in place: a virtual environment knows its own path.
    "$python" -I -m venv --without-pip "$opt/$version" 9>&-
    chmod 0700 "$opt/$version"
    run_pip --python "$opt/$version/bin/python3" install --require-hashes --only-binary :all: -r "$source/systemd/requirements.lock"
    run_pip --python "$opt/$version/bin/python3" install --no-deps --no-index "$work"/sockbroker-*.whl

    # pip's launchers obey PYTHONPATH and look for modules beside themselves; ours do not. And to look for all that may be installed
    # (site, which -S leaves out) takes a fifth of the time of a whole `sockbrokerctl request`.
    packages=$("$opt/$version/bin/python3" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    for command in 'sockbrokerd daemon' 'sockbrokerctl ctl'; do
        rm -f -- "$opt/$version/bin/${command% *}"
        cat >"$opt/$version/bin/${command% *}" <<LAUNCHER
#!$opt/$version/bin/python3 -IS
import sys
sys.path.append("$packages")
from sockbroker.${command#* } import main
sys.exit(main())
LAUNCHER
    done
    rm -f -- "$opt/$version"/bin/[Aa]ctivate*
    mkdir -p "$opt/$version/share/man" "$opt/$version/systemd"
    for page in "$source"/systemd/man/*.[158]; do
        [ -e "$page" ] || continue
        mkdir -p "$opt/$version/share/man/man${page##*.}"
        cp -- "$page" "$opt/$version/share/man/man${page##*.}/"
    done
    for unit in $sockets sockbroker.service; do
        cp -- "$source/systemd/$unit" "$opt/$version/systemd/"
    done
    chmod -R a+rX,go-w "$opt/$version"
    chmod 0755 "$opt/$version/bin/sockbrokerd" "$opt/$version/bin/sockbrokerctl"
    [ ! -e "$policy" ] || check_policy "$opt/$version" ||
        fail "the new version refuses $policy as it is (see above); the old one runs on" "Mend the policy, then run again."
    sync -f "$opt/$version"
}

check_policy() {
    "$1/bin/sockbrokerctl" check </dev/null >"$work/check" 2>&1 9>&- && judged=0 || judged=$?
    [ ! -s "$work/check" ] || show "$work/check"
    return "$judged"
}

# Gives $1 the target $2 in one step: whoever uses it finds the old or the new one.
put_link() {
    mkdir -p -- "${1%/*}"
    rm -f -- "$1.new"
    ln -s -- "$2" "$1.new"
    mv -fT -- "$1.new" "$1"
}

put_commands() {
    put_link "$opt/current" "$version"
    while read -r link target; do
        [ ! -e "$target" ] || [ "$(readlink -- "$link")" = "$target" ] || put_link "$link" "$target"
    done <<LINKS
$links
LINKS
}

# Whom the policy and the proof are about: who ran sudo, else the first ordinary user, who need not exist.
choose_user() {
    user=1000
    case $caller in
    '' | -* | *[!A-Za-z0-9._@-]*) ;;
    *) user=$(id -u -- "$caller" 2>/dev/null) || user=1000 ;;
    esac
    case $user in
    0 | 65534 | 65535 | 4294967295) user=1000 ;;
    esac
    user_name=$(getent passwd "$user" | cut -d: -f1) || :
}

put_policy() {
    rm -f -- "$policy".new-*
    if [ -e "$policy" ] || [ -L "$policy" ]; then
        note "$policy is there and stays as it is"
        return
    fi
    new=$(mktemp "$policy.new-XXXXXXXX")
    sed "s/^      users: \[\] /      users: [$user] /" "$source/etc/sockbroker.yaml" >"$new"
    grep -q "users: \[$user\]" "$new" || fail "etc/sockbroker.yaml has no empty list of users to put uid $user into"
    chmod 0644 "$new"
    sync "$new"
    ln -- "$new" "$policy" # does not replace
    rm -f -- "$new"
    fresh_policy=1
    note "$policy allows the app demo to uid $user${user_name:+ ($user_name)}, and nothing else to anybody"
}

put_units() {
    changed=''
    mkdir -p -- "$units"
    for unit in $sockets sockbroker.service; do
        ! cmp -s -- "$source/systemd/$unit" "$units/$unit" || continue
        cp -- "$source/systemd/$unit" "$units/$unit.new"
        chmod 0644 "$units/$unit.new"
        mv -fT -- "$units/$unit.new" "$units/$unit"
        case $unit in
        *.socket) changed="$changed $unit" ;;
        esac
    done
    # Also where systemd does not run now: the machine may be started with it.
    # shellcheck disable=SC2086 # a list of words
    ! command -v systemctl >/dev/null || systemctl enable -q $sockets sockbroker.service 9>&-
}

# ---- Starting and stopping ------------------------------------------------------------------------------------------------------

# The broker that was started without systemd. Anybody can name a process so, but only root can run it as root.
started_by_hand() {
    pid=$(cat /run/sockbroker/sockbrokerd.pid 2>/dev/null) || return 1
    case $pid in
    '' | *[!0-9]*) return 1 ;;
    esac
    [ "$(stat -c %u "/proc/$pid" 2>/dev/null)" = 0 ] &&
        { tr '\0' '\n' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -q '/sockbrokerd$' &&
        ! { systemd_runs && [ "$(systemctl show -P MainPID sockbroker.service)" = "$pid" ]; }
}

stop_by_hand() {
    started_by_hand || return 0
    kill -TERM "$pid"
    tries=100
    while started_by_hand; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "the broker, process $pid, does not end" "Look why, or end it with kill -9 $pid, then run again."
        sleep 0.1
    done
}

start() {
    if systemd_runs; then
        systemctl daemon-reload
        stop_by_hand
        # A socket whose file has changed has to be made anew. The restart starts those that do not listen while the service is down
        # (only then can they be) and lets the others be, with whoever is waiting there. One may be refused, since anybody can hold
        # the abstract name; the service is what counts.
        # shellcheck disable=SC2086 # a list of words
        [ -z "$changed" ] || systemctl stop $changed 9>&-
        systemctl restart sockbroker.service >"$work/start" 2>&1 9>&- || :
        systemctl is-active -q sockbroker.service || {
            show "$work/start"
            journalctl -q -n 20 --no-pager -o cat -u sockbroker.service >"$work/start" 2>&1 || :
            show "$work/start"
            fail 'the broker does not start' "$blame_version"
        }
        for socket in $sockets; do
            systemctl is-active -q "$socket" || note "$socket does not listen; see: systemctl status $socket"
        done
    else
        stop_by_hand
        "$opt/current/bin/sockbrokerd" --daemonize </dev/null >"$work/start" 2>&1 9>&- || {
            show "$work/start"
            fail 'the broker does not start' "$blame_version"
        }
        [ ! -s "$work/start" ] || show "$work/start"
    fi
}

# Asks as the ordinary user would, who gets nothing of ours: not the terminal (he could type into it), no descriptor, no variable.
prove() {
    "$python" -I - "$user" "$opt/current/bin/sockbrokerctl" >"$work/proof" 2>&1 <<'PYTHON' 9>&- && status=0 || status=$?
import os
import pwd
import subprocess
import sys

uid, command = int(sys.argv[1]), sys.argv[2]
try:
    entry = pwd.getpwuid(uid)
    name, gid = entry.pw_name, entry.pw_gid
    groups = os.getgrouplist(name, gid)
except KeyError:  # a uid that nobody has yet is as good: the broker needs no more
    name, gid, groups = str(uid), uid, []
done = subprocess.run(
    [command, "request", "demo"],
    user=uid, group=gid, extra_groups=groups, umask=0o077, cwd="/", start_new_session=True, close_fds=True, timeout=60,
    env={"PATH": "/usr/local/bin:/usr/bin:/bin", "USER": name, "LC_ALL": "C.UTF-8"},
    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
)
sys.stdout.buffer.write(done.stdout)
sys.exit(done.returncode if done.returncode >= 0 else 1)
PYTHON
    note "as uid $user${user_name:+ ($user_name)}: sockbrokerctl request demo"
    show "$work/proof"
    case $status,$fresh_policy in
    0,*) ;;
    77,0) note 'denied, as the policy that was there already wants it; the broker answers' ;;
    *) fail "the broker did not give uid $user a directory" "$blame_version" ;;
    esac
    note 'as root: sockbrokerctl list'
    "$opt/current/bin/sockbrokerctl" list </dev/null >"$work/proof" 2>&1 9>&- || {
        show "$work/proof"
        fail 'the broker does not list what it has' "$blame_version"
    }
    show "$work/proof"
}

# What earlier installations and those that did not come to their end have left.
remove_old() {
    for old in "$opt"/* "$opt"/.build-*; do
        case $old in
        "$opt/current" | "$opt/$version" | "$work") ;;
        *) rm -rf --one-file-system -- "$old" ;;
        esac
    done
}

walk() {
    set -- "$opt" "$units/sockbroker.service"
    for unit in $sockets; do
        set -- "$@" "$units/$unit"
    done
    [ "$fresh_policy" = 0 ] || set -- "$@" "$policy" # an older one is its administrator's
    find "$@" -path "$work" -prune -o \
        \( ! -uid 0 -o ! -type l \( -perm /022 -o ! -perm -444 -o -type d ! -perm -555 \) \) -print >"$work/walk"
    while read -r link target; do
        [ ! -e "$target" ] || [ "$(readlink -- "$link")" = "$target" ] || printf '%s\n' "$link" >>"$work/walk"
    done <<LINKS
$links
LINKS
    [ ! -s "$work/walk" ] || {
        show "$work/walk"
        fail 'these are not as they should be: root'"'"'s, readable by all, writable by nobody else'
    }
    for place in "$@" "$python"; do
        demand_roots "$place"
    done
}

install() {
    steps=9
    step 'checking this machine' ''
    checkout=$(readlink -e -- "$(dirname -- "$script")/..")
    [ -x "$python" ] || fail "$python is missing" "Install python3 (on Debian: apt-get install python3), then run again."
    "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$python is older than Python 3.11" 'Debian 12 or later has it.'
    for place in "$python" /opt /etc "$units"; do
        [ ! -e "$place" ] || demand_roots "$place"
    done
    for place in /usr/local/bin /usr/local/sbin; do # only links go there; what the units run is at its own path
        is_roots "$place" || [ ! -e "$place" ] || note "note: $suspect is not root's alone; who can write there can replace commands"
    done
    refuse_others
    choose_user
    mkdir -p "$opt"
    : >"$opt/.made-by-sockbroker"
    work=$(mktemp -d "$opt/.build-XXXXXXXX") # 0700
    source=$work/source
    fresh_policy=0
    mend="Nothing was changed yet. Run again when this is mended."

    step 'installing what is missing' "See what apt-get says above; then run again."
    install_packages

    step 'copying the tracked files' 'Nothing was changed yet. Mend the checkout, then run again.'
    copy_tracked_files
    version=$(sed -n 's/^version = "\([0-9][0-9A-Za-z.]*\)"$/\1/p' "$source/pyproject.toml" | head -n 1)
    [ -n "$version" ] || fail 'pyproject.toml tells no version'
    version=$version-${work##*-}

    step "building $version" 'What runs now was not touched. Run again when this is mended.'
    build

    former=$(readlink -- "$opt/current") || former=''
    blame_version="Look at the messages above, then run again.${former:+ To go back to the former version:
ln -sfnT $former $opt/current && sh -c 'systemctl restart sockbroker || sockbrokerd --daemonize'}"
    step "putting it in use at $opt/current" ''
    put_commands

    step 'the policy' ''
    put_policy

    step 'the units' ''
    put_units

    step 'starting the broker' ''
    start

    step 'proving it' ''
    prove
    remove_old
    walk
    note "nothing that was installed can be changed by anybody but root"
    note "done: $version. Who may have what is said in $policy"
}

# ---- Uninstalling ---------------------------------------------------------------------------------------------------------------

uninstall() {
    steps=3
    refuse_others
    step 'stopping the broker' ''
    ours=''
    for unit in $sockets sockbroker.service; do
        ! is_our_unit "$unit" || ours="$ours $unit"
    done
    if [ -n "$ours" ] && command -v systemctl >/dev/null; then
        if systemd_runs; then
            # shellcheck disable=SC2086 # a list of words; all at once, or a socket would start the service again
            systemctl stop $ours 9>&-
        fi
        # shellcheck disable=SC2086
        systemctl disable -q $ours 9>&-
    fi
    stop_by_hand

    step 'removing the directories that nobody uses' "The program is still there; run again when this is mended."
    if [ -x "$opt/current/bin/sockbrokerd" ]; then
        # The broker's own remover follows no link and crosses no mount, as rm would.
        work=$(mktemp -d "$opt/.build-XXXXXXXX")
        # shellcheck disable=SC2086 # nothing, or one word
        "$opt/current/bin/sockbrokerd" --remove-directories $force </dev/null >"$work/kept" 2>"$work/errors" 9>&- && kept=0 || kept=$?
        show "$work/kept"
        show "$work/errors"
        # 1 without a line about what is kept: it could not even look.
        [ "$kept" = 0 ] || { [ "$kept" = 1 ] && [ -s "$work/kept" ]; } || fail "sockbrokerd --remove-directories: status $kept"
        [ "$kept" = 0 ] || note 'These stay. They go with the next boot, or by installing again and: install.sh --uninstall --force'
    fi

    step 'removing the program' ''
    for unit in $ours; do
        rm -f -- "$units/$unit" "$units/$unit.new"
    done
    if systemd_runs; then
        systemctl daemon-reload
        # shellcheck disable=SC2086
        [ -z "$ours" ] || systemctl reset-failed $ours 2>/dev/null || :
    fi
    while read -r link target; do
        [ ! -L "$link" ] || rm -f -- "$link"
        rm -f -- "$link.new"
    done <<LINKS
$links
LINKS
    rm -f -- /run/sockbroker/io.sockbroker /run/sockbroker/operator /run/sockbroker/sockbrokerd.pid /run/.sockbroker.lock
    [ ! -d /run/sockbroker ] || rmdir -- /run/sockbroker || note '/run/sockbroker holds something that is not ours, and stays'
    rm -f -- "$opt/current" "$policy".new-*
    rm -rf --one-file-system -- "$opt"
    [ ! -e "$policy" ] || note "$policy stays, and so do the packages of the distribution"
    note 'the program is gone'
}

# ---- From the command line ------------------------------------------------------------------------------------------------------

main() {
    script=$1 caller=$2
    shift 2
    force=''
    case "$*" in
    '' | --uninstall) ;;
    '--uninstall --force' | '--force --uninstall') force=--force ;;
    *)
        printf 'usage: sh systemd/install.sh [--uninstall [--force]]\n' >&2
        exit 2
        ;;
    esac
    [ "$(id -u)" = 0 ] || {
        printf 'install.sh: this needs root: sudo sh %s %s\n' "$script" "$*" >&2
        exit 1
    }
    trap finish EXIT
    trap 'why=interrupted; exit 130' HUP INT TERM
    umask 077 # or anybody could open the lock and hold it
    exec 9>/run/.sockbroker-install.lock # the descriptor is closed for whatever might outlive us
    umask 022
    flock -n 9 || fail 'another install.sh is at work' 'Wait until it is done.'
    if [ $# = 0 ]; then
        install
    else
        uninstall
    fi
    rm -f /run/.sockbroker-install.lock
}

if [ "${1-}" = --in-a-clean-environment ]; then
    shift
    main "$@"
    exit
fi
umask 022
[ -f "$0" ] || {
    printf 'install.sh: run it as a file: sh systemd/install.sh\n' >&2
    exit 2
}
set -- /bin/sh "$(readlink -e -- "$0")" --in-a-clean-environment "$(readlink -e -- "$0")" "${SUDO_USER-}" "$@"
# A proxy may be the only way out; what comes through it is checked by signature or hash.
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    eval "value=\${$name-}"
    [ -z "$value" ] || set -- "$name=$value" "$@"
done
cd /
exec /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@"
