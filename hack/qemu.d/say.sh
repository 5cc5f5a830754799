# shellcheck shell=bash
# Messages, one builder at a time, finished folders that appear in one step.

say() { echo "qemu: $*" >&2; }

fail() {
    echo "qemu: $*" >&2
    exit 1
}

need() {
    local list=$1 program
    shift
    for program in "$@"; do
        command -v "$program" >/dev/null ||
            fail "$program is missing; as root: hack/packages $list"
    done
}

# take_lock NAME: whoever builds NAME waits here for another who does. Held until this process and
# what it started have ended, so that the leftovers found under it are nobody's.
take_lock() {
    mkdir -p "$CACHE"
    exec 9>"$CACHE/$1.lock"
    flock --nonblock 9 || {
        say "waiting for another build of $1"
        flock 9
    }
    rm -rf "$CACHE/$1".unfinished.*
}

# new_folder NAME: sets WORK to a folder for one build; it goes when this process ends.
new_folder() {
    WORK=$(mktemp -d "$CACHE/$1.unfinished.XXXXXX")
    trap 'rm -rf "$WORK"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

# finish FOLDER TARGET: TARGET appears whole or not at all, also when the machine stops meanwhile.
finish() {
    sync --file-system "$1"
    mv --no-target-directory "$1" "$2"
    rm -rf "$WORK"
}

sha256_of() { sha256sum "$1" | cut -d ' ' -f 1; }

# quietly LOG COMMAND...: the end of the log is shown when the command fails.
quietly() {
    local log=$1
    shift
    "$@" >"$log" 2>&1 </dev/null || {
        tail -n 30 "$log" >&2
        fail "failed: ${*: -2}"
    }
}
