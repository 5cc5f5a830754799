# shellcheck shell=bash
# What the nodes change on the host itself, and how it is put back: hugepages, kernel settings that
# a kubelet writes, the hugetlb controller, cgroups. The value found is written down before the
# change, so `down` can put it back wherever `up` was killed.

# Written by a kubelet at its start (its --protect-kernel-defaults=false), and the hugepages.
KERNEL_SETTINGS=(
    vm.nr_hugepages
    vm.overcommit_memory
    vm.panic_on_oom
    kernel.panic
    kernel.panic_on_oops
    kernel.keys.root_maxkeys
    kernel.keys.root_maxbytes
)

save_kernel_settings() {
    local name
    for name in "${KERNEL_SETTINGS[@]}"; do
        echo "$name $(sysctl -n "$name")"
    done >"$STATE/kernel-settings.new"
    mv "$STATE/kernel-settings.new" "$STATE/kernel-settings"
}

restore_kernel_settings() {
    local name value
    [[ -e $STATE/kernel-settings ]] || return 0
    while read -r name value; do
        [[ $(sysctl -n "$name") == "$value" ]] || sysctl -q -w "$name=$value"
    done <"$STATE/kernel-settings"
}

hugepages_up() {
    local before wanted
    save_kernel_settings
    before=$(sysctl -n vm.nr_hugepages)
    wanted=$((before + HUGEPAGES_2MI))
    sysctl -q -w "vm.nr_hugepages=$wanted"
    if (($(sysctl -n vm.nr_hugepages) < wanted)); then
        echo 1 >/proc/sys/vm/compact_memory
        sysctl -q -w "vm.nr_hugepages=$wanted"
    fi
    (($(sysctl -n vm.nr_hugepages) >= wanted)) ||
        fail "the kernel has no room for $HUGEPAGES_2MI hugepages of 2 MiB;" \
            "free memory, or set SIGIL_CLUSTER_HUGEPAGES lower"
}

is_cgroup_v2() { [[ -e /sys/fs/cgroup/cgroup.controllers ]]; }

# The folders in which a cgroup is made: one for each controller and the empty unified one that runc
# uses beside them (v1), or the only one (v2).
cgroup_hierarchies() {
    if is_cgroup_v2; then
        echo /sys/fs/cgroup
    else
        awk '{ i = 7; while ($i != "-") i++; if ($(i + 1) ~ /^cgroup2?$/) print $5 }' \
            /proc/self/mountinfo
    fi
}

# A pod that asks for hugepages needs the hugetlb controller; some machines with v1 do not mount it.
hugetlb_up() {
    is_cgroup_v2 && return 0
    cgroup_hierarchies | grep -q '/hugetlb$' && return 0
    : >"$STATE/hugetlb-is-ours"
    mkdir -p /sys/fs/cgroup/hugetlb
    mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb
}

hugetlb_down() {
    [[ -e $STATE/hugetlb-is-ours ]] || return 0
    if mountpoint -q /sys/fs/cgroup/hugetlb; then
        umount /sys/fs/cgroup/hugetlb
    fi
    [[ ! -d /sys/fs/cgroup/hugetlb ]] || rmdir /sys/fs/cgroup/hugetlb
}

# One parent for the cluster, below it one root for each node (`cgroupRoot` of its kubelet).
cgroups_up() {
    local top folder node
    hugetlb_up
    while read -r top; do
        make_cgroup "$top" "$top/$CGROUP"
        for node in "${NODES[@]}"; do
            make_cgroup "$top/$CGROUP" "$top/$CGROUP/$node"
        done
    done < <(cgroup_hierarchies)
}

make_cgroup() { # PARENT FOLDER
    local file
    if is_cgroup_v2; then
        sed 's/\(^\| \)/ +/g' "$1/cgroup.controllers" >"$1/cgroup.subtree_control"
    fi
    mkdir -p "$2"
    # A new cpuset of v1 is empty, and no process can enter an empty one.
    for file in cpuset.cpus cpuset.mems; do
        if ! is_cgroup_v2 && [[ -e $1/$file ]]; then
            cat "$1/$file" >"$2/$file"
        fi
    done
}

cgroup_pids() {
    local top
    while read -r top; do
        [[ -d $top/$CGROUP ]] || continue
        find "$top/$CGROUP" -name cgroup.procs -exec cat {} + 2>/dev/null
    done < <(cgroup_hierarchies) | sort -u
}

cgroups_are_empty() { [[ -z $(cgroup_pids) ]]; }

cgroups_down() {
    local top
    while read -r top; do
        [[ -d $top/$CGROUP ]] || continue
        find "$top/$CGROUP" -depth -type d -exec rmdir {} +
    done < <(cgroup_hierarchies)
}

# Nodes change settings of the whole machine, so only one cluster with nodes is up at a time.
refuse_second_cluster() {
    local folder other
    while read -r folder; do
        other=${folder##*/sigil-cluster-}
        fail "the cluster \"$other\" has nodes here, and hugepages and cores belong to the whole" \
            "machine; end it with: SIGIL_CLUSTER_NAME=$other hack/cluster down"
    done < <(cgroup_hierarchies | while read -r top; do
        find "$top" -maxdepth 1 -type d -name 'sigil-cluster-*'
    done)
}

# Folders of a node that nothing can be told to use elsewhere (device plugin socket, cache of CNI
# results), and its disk. Each node mounts its own over them; here there is only the place for it.
NODE_FOLDERS=(/var/lib/kubelet /var/lib/cni /var/lib/sigil)

node_folders_up() {
    local folder
    for folder in "${NODE_FOLDERS[@]}"; do
        [[ ! -d $folder ]] || continue
        echo "$folder" >>"$STATE/node-folders-are-ours"
        mkdir "$folder"
    done
}

node_folders_down() {
    local folder
    [[ -e $STATE/node-folders-are-ours ]] || return 0
    while read -r folder; do
        [[ ! -d $folder ]] || rmdir "$folder"
    done <"$STATE/node-folders-are-ours"
}
