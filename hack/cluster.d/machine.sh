# shellcheck shell=bash
# A machine of the cluster (control-plane, node-1, node-2) is a set of namespaces of its own:
# network, mounts, processes. One small process, its init, holds them. When it is killed the kernel
# kills everything in the machine, containers included, and with the last process go its mounts and
# interfaces; so `down` needs nothing but the pid of one process for each machine.
#
# A pid file holds "PID STARTTIME" (/proc/PID/stat, field 22): a pid that was given to somebody else
# meanwhile is never signalled.

start_time() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    stat=${stat##*) } # the name in parentheses may hold anything
    read -r -a stat <<<"$stat"
    echo "${stat[19]}"
}

write_pid() { # FILE PID
    local started
    started=$(start_time "$2") || return 1
    echo "$2 $started" >"$1.new"
    mv "$1.new" "$1"
}

# pid_of NAME: the pid of a process that runs, or nothing and false.
pid_of() {
    local pid started
    read -r pid started 2>/dev/null <"$STATE/run/$1.pid" || return 1
    [[ $(start_time "$pid") == "$started" && ! $(process_state "$pid") =~ ^[ZX]$ ]] || return 1
    echo "$pid"
}

process_state() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    stat=${stat##*) }
    echo "${stat%% *}"
}

first_dead_process() {
    local file name
    for file in "$STATE"/run/*.pid; do
        [[ -e $file ]] || continue
        name=$(basename "$file" .pid)
        pid_of "$name" >/dev/null || {
            echo "$name"
            return 0
        }
    done
    return 1
}

only_child() {
    local children
    children=$(cat "/proc/$1/task/$1/children" 2>/dev/null) || return 1
    [[ -n $children ]] && echo "${children%% *}"
}

# machine_start MACHINE [DISK]: the outer process is `unshare`; it writes its pid file
# before it becomes that, so there is no moment in which it runs and nobody knows.
machine_start() {
    local machine=$1
    # It keeps the lock (9) until it is written down, so a `down` cannot overtake it.
    # shellcheck disable=SC2016 # expanded by the inner shell
    setsid bash -c '. "$1" && write_pid "$2" $$ && shift 2 && exec "$@" 9>&-' _ \
        "$PARTS/machine.sh" "$STATE/run/$machine.pid" \
        unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private \
        bash "$PARTS/machine-init" "$STATE" "$@" \
        >"$STATE/log/$machine.log" 2>&1 </dev/null &
    disown
    wait_until "$PROCESS_DEADLINE_S" "the namespaces of $machine" test -e "$STATE/run/$machine.made"
    local init
    init=$(only_child "$(pid_of "$machine")")
    write_pid "$STATE/run/$machine.init.pid" "$init"
}

machine_init() {
    ((EUID == 0)) || fail "entering the cluster's namespaces needs root; use sudo"
    pid_of "$1.init" || fail "$1 is not running; start it with: hack/cluster up"
}

# in_network MACHINE COMMAND...: only the network is the machine's; files are ours.
in_network() {
    local init
    init=$(machine_init "$1")
    shift
    nsenter --target "$init" --net -- "$@"
}

# in_machine MACHINE COMMAND...: network, mounts and processes are the machine's.
in_machine() {
    local init
    init=$(machine_init "$1")
    shift
    nsenter --target "$init" --net --mount --pid --wd=/ -- "$@"
}

# machine_run MACHINE PROCESS COMMAND...: a daemon. `nsenter` forks to enter a pid namespace; the
# pid file names the child, which is the daemon itself.
machine_run() {
    local machine=$1 process=$2 init outer
    shift 2
    init=$(machine_init "$machine")
    setsid nsenter --target "$init" --net --mount --pid --wd=/ -- "$@" \
        >"$STATE/log/$process.log" 2>&1 </dev/null 9>&- &
    outer=$!
    disown
    wait_until "$PROCESS_DEADLINE_S" "the start of $process" has_forked_or_ended "$outer"
    write_pid "$STATE/run/$process.pid" "$(only_child "$outer")" || {
        show_log "$process"
        fail "$process has ended at once"
    }
}

has_forked_or_ended() { only_child "$1" || ! kill -0 "$1"; }

# machine_kill MACHINE: the outer process first (its death kills init), then init by itself, should
# the outer one be gone already. Ends when the kernel has emptied the machine.
machine_kill() {
    local machine=$1 outer init=""
    if outer=$(pid_of "$machine"); then
        init=$(only_child "$outer") || true
        kill -KILL "$outer" 2>/dev/null || true
    fi
    [[ -n $init ]] || init=$(pid_of "$machine.init") || return 0
    kill -KILL "$init" 2>/dev/null || true
    local end=$(($(now_ms) + END_DEADLINE_S * 1000))
    while [[ -d /proc/$init && $(process_state "$init") != Z ]]; do
        (($(now_ms) < end)) ||
            fail "$machine (process $init) does not end; is a process of it stuck in the kernel?"
        sleep 0.05
    done
}
