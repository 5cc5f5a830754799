# shellcheck shell=bash
# `down`: nothing is asked of the cluster, so it works on a half-made or broken one just the same.
# Every part looks at what is there and may be repeated.

cluster_down() {
    local machine
    # Without kubelets nothing starts containers again; then pods may end in order.
    for machine in "${NODES[@]}"; do
        kill_process "$machine.kubelet"
    done
    end_pods
    for machine in "${NODES[@]}" control-plane; do
        machine_kill "$machine"
    done
    kill_cgroup
    cgroups_down
    hugetlb_down
    node_folders_down
    restore_kernel_settings
    remove_state
}

kill_process() {
    local pid
    pid=$(pid_of "$1") || return 0
    kill -KILL "$pid" 2>/dev/null || true
}

end_pods() {
    local pids
    mapfile -t pids < <(cgroup_pids)
    ((${#pids[@]})) || return 0
    kill -TERM "${pids[@]}" 2>/dev/null || true
    await "$POD_GRACE_S" cgroups_are_empty || true
}

# Containers die with their machine. What is still in a cgroup of ours has lost its machine.
kill_cgroup() {
    local pids
    if await "$END_DEADLINE_S" cgroups_are_empty_after_kill; then
        return
    fi
    mapfile -t pids < <(cgroup_pids)
    fail "processes of pods do not end: ${pids[*]}"
}

cgroups_are_empty_after_kill() {
    local pids
    mapfile -t pids < <(cgroup_pids)
    ((${#pids[@]})) || return 0
    kill -KILL "${pids[@]}" 2>/dev/null || true
    return 1
}

# await SECONDS COMMAND...: true as soon as COMMAND is.
await() {
    local end=$(($(now_ms) + $1 * 1000))
    shift
    until "$@"; do
        (($(now_ms) < end)) || return 1
        sleep 0.05
    done
}

# Volumes of pods are mounted below the state folder, in the machines only. Were one visible here,
# removing the folder could remove the data of somebody's volume, so that is looked at first.
remove_state() {
    [[ -d $STATE ]] || return 0
    if awk '{ print $5 }' /proc/self/mountinfo | grep -qF "$STATE/"; then
        fail "something is mounted below $STATE; unmount it (see /proc/self/mountinfo)," \
            "then: hack/cluster down"
    fi
    rm -rf --one-file-system "$STATE"
}
