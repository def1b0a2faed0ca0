# What the scripts in this directory stand on: the tree, the cache, Debian's packages, a line per step. Sourced, not run.
# shellcheck shell=bash disable=SC2034

tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target_dir=${CARGO_TARGET_DIR:-$tree/target}
# The lab's cache: what is fetched or built once per version lies outside of the tree.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/c3os-lab
mkdir -p "$cache"
# The one clock of everything that is built: the time of the commit.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$tree" log -1 --format=%ct 2>/dev/null || echo 1793491200)}
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC

say() { echo "$*" >&2; }
die() {
    say "$(basename "$0"): $*"
    exit 1
}

# step WORDS CMD..: runs a step up to its first command that fails, and says how long it took; what it prints goes to
# a log, shown if it fails, and that is the end. Not to be called where a status is tested (if, ||, &&): there bash goes
# on after commands that fail.
step() {
    local words=$1 log begin status
    shift
    log=$(mktemp)
    begin=$(date +%s%N)
    printf '%-44s' "$words" >&2
    set +e
    (
        set -e
        "$@"
    ) >"$log" 2>&1
    status=$?
    set -e
    say "$(printf '%7.1f s%s' "$((($(date +%s%N) - begin) / 100000000))e-1" "$([ $status = 0 ] || echo ' FAILED')")"
    [ $status = 0 ] || tail -n 30 "$log" >&2
    rm -f "$log"
    [ $status = 0 ] || exit $status
}

# one_time DIR: no file there is younger than the clock, so that the same input gives the same bytes.
one_time() { find "$1" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +; }

# kept NAME CMD..: fills $cache/NAME by `CMD.. DIR` as a whole or not at all, once; prints the directory.
kept() (
    name=$1
    shift
    if [ ! -d "$cache/$name" ]; then
        part=$cache/$name.part-$BASHPID
        trap 'rm -rf "$part"' EXIT
        mkdir -p "$part"
        step "$name (once)" "$@" "$part"
        # Somebody else may have been as quick.
        mv -T "$part" "$cache/$name" 2>/dev/null || true
    fi
    echo "$cache/$name"
)

# need PACKAGE=FILE..: root installs the packages of Debian whose FILE is missing; others are told which.
need() {
    local missing=() pair
    for pair; do
        compgen -G "${pair#*=}" >/dev/null || missing+=("${pair%%=*}")
    done
    [ ${#missing[@]} != 0 ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        die "missing: apt-get install ${missing[*]}"
    fi
    step "installing ${missing[*]}" install_packages "${missing[@]}"
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || true
    apt-get install -y -qq --no-install-recommends "$@"
}

# unpacked DIR PACKAGE..: Debian's packages laid out below DIR, without installing them.
unpacked() {
    local dir=$1 debs deb
    shift
    debs=$(mktemp -d)
    # apt drops root's rights to fetch, and needs a place where it then may write.
    chmod 777 "$debs"
    (cd "$debs" && apt-get download -qq "$@")
    for deb in "$debs"/*.deb; do dpkg -x "$deb" "$dir"; done
    rm -rf "$debs"
}
