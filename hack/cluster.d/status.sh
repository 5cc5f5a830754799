# shellcheck shell=bash
# `status`: what runs; false when the cluster is down or a process of it has ended.

cluster_status() {
    local file name pid dead=0
    if [[ ! -d $STATE ]]; then
        say "\"$CLUSTER\" is down"
        return 1
    fi
    say "\"$CLUSTER\", state and logs in $STATE"
    for file in "$STATE"/run/*.pid; do
        [[ -e $file ]] || continue
        name=$(basename "$file" .pid)
        if pid=$(pid_of "$name"); then
            printf '  %-26s process %s\n' "$name" "$pid"
        else
            printf '  %-26s HAS ENDED (log/%s.log)\n' "$name" "$name"
            dead=1
        fi
    done
    if ((EUID == 0)) && pid_of kube-apiserver >/dev/null; then
        kubectl_here get nodes -o wide || dead=1
    fi
    return "$dead"
}
