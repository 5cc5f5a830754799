# shellcheck shell=bash
# Messages, steps with their time, waits with a deadline.

say() { echo "cluster: $*"; }

fail() {
    echo "cluster: $*" >&2
    exit 1
}

now_ms() {
    local now=${EPOCHREALTIME/[.,]/}
    echo $((now / 1000))
}

seconds_since() {
    local ms=$(($(now_ms) - $1))
    printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100))
}

# step NAME TEXT COMMAND...: runs one step of `up` and says how long it took. With
# SIGIL_CLUSTER_FAIL_AT=NAME the script is killed right after it, as by an out-of-memory killer:
# that is how the test shows that `down` needs no luck.
step() {
    local name=$1 text=$2 before
    shift 2
    before=$(now_ms)
    "$@"
    say "$text ($(seconds_since "$before"))"
    if [[ ${SIGIL_CLUSTER_FAIL_AT:-} == "$name" ]]; then
        say "killed after step $name, as SIGIL_CLUSTER_FAIL_AT says"
        kill -KILL $$
    fi
}

# wait_until SECONDS WHAT COMMAND...: polls COMMAND until it is true. When one of the cluster's own
# processes ends meanwhile, or time is up, the end of the log that matters is shown.
wait_until() {
    local deadline_s=$1 what=$2 end dead
    shift 2
    end=$(($(now_ms) + deadline_s * 1000))
    until "$@" >/dev/null 2>&1; do
        if dead=$(first_dead_process); then
            show_log "$dead"
            fail "$dead has ended while we waited for $what"
        fi
        if (($(now_ms) >= end)); then
            fail "$what: not within $deadline_s s; the logs are in $STATE/log"
        fi
        sleep 0.1
    done
}

show_log() {
    echo "cluster: the last lines of $STATE/log/$1.log:" >&2
    tail -n 15 "$STATE/log/$1.log" >&2 || true
}
