# shellcheck shell=bash
# What a cluster could leave on a machine. Compare the output before with the output after.

# traces PATTERN...: one thing a line. Processes are those whose executable matches a pattern.
traces() {
    awk '{ print "mount", $5 }' /proc/self/mountinfo
    find /sys/fs/cgroup -type d \( -name 'sigil-cluster-*' -o -name 'kubepods*' \) \
        -printf 'cgroup %p\n'
    find /sys/fs/cgroup -maxdepth 1 -mindepth 1 -type d -printf 'hierarchy %f\n'
    sysctl vm.nr_hugepages vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops \
        kernel.keys.root_maxkeys kernel.keys.root_maxbytes
    find /var/lib /var/log /run /opt /etc/cni /usr/libexec -maxdepth 1 \
        \( -name 'kubelet*' -o -name sigil -o -name 'kubernetes*' -o -name pods \
        -o -name containers -o -name 'containerd*' -o -name netns -o -name 'cni*' \) \
        -printf 'folder %p\n' 2>/dev/null || true
    matching_processes "$@"
}

matching_processes() {
    local process exe pattern
    for process in /proc/[0-9]*; do
        exe=$(readlink "$process/exe" 2>/dev/null) || continue
        for pattern in "$@"; do
            # shellcheck disable=SC2053 # a pattern on purpose
            if [[ $exe == $pattern ]]; then
                echo "process ${process#/proc/} $exe"
            fi
        done
    done
}

# A network namespace lives as long as a process is in it.
network_namespaces() {
    # Processes end while we look: find then fails, and has still seen the others.
    { find /proc -maxdepth 3 -path '/proc/[0-9]*/ns/net' -printf '%l\n' 2>/dev/null || true; } | sort -u
}
