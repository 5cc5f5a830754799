# shellcheck shell=bash
# `up`: whatever was there is taken down first, so an earlier `up` that was killed does no harm.

check_machine() { # PACKAGES
    ((EUID == 0)) || fail "namespaces, cgroups and hugepages need root; run: sudo hack/cluster up"
    [[ $CLUSTER =~ ^[a-z][a-z0-9-]{0,19}$ ]] ||
        fail "SIGIL_CLUSTER_NAME is \"$CLUSTER\"; use 1 to 20 of a-z, 0-9 and -, a letter first"
    # /run and /var/log are other folders inside the machines.
    [[ $STATE == /* && ! $STATE/ =~ ^(/run|/var/run|/var/log|/var/lib/(kubelet|cni|sigil))/ ]] ||
        fail "the state folder $STATE must be absolute and not below /run, /var/log," \
            "/var/lib/kubelet, /var/lib/cni or /var/lib/sigil; set SIGIL_CLUSTER_DIR"
    [[ $HUGEPAGES_2MI =~ ^[0-9]{1,6}$ ]] ||
        fail "SIGIL_CLUSTER_HUGEPAGES is \"$HUGEPAGES_2MI\"; it is a number of 2 MiB pages"
    "$HACK/packages" "$1"
}

# What a failed `up` leaves is taken away, but its logs are kept.
after_failed_up() {
    local code=$?
    trap - EXIT
    ((code == 0)) && exit 0
    rm -rf "$LAST_FAILURE"
    if [[ -d $STATE/log ]]; then
        cp -r "$STATE/log" "$LAST_FAILURE"
        say "the logs are in $LAST_FAILURE"
    fi
    (cluster_down) || true
    exit "$code"
}

cluster_up() {
    local with_nodes=1 controllers=1 argument before
    for argument in "$@"; do
        case $argument in
        --control-plane-only) with_nodes=0 controllers=0 ;;
        --with-controllers) controllers=1 ;;
        *) fail "up: unknown argument $argument (see: hack/cluster help)" ;;
        esac
    done
    before=$(now_ms)
    if ((with_nodes)); then
        check_machine cluster
        "$HACK/tools/build"
    else
        check_machine test
        "$HACK/tools/build" etcd kube-apiserver kubectl kube-controller-manager
    fi
    take_lock
    cluster_down
    ((with_nodes == 0)) || refuse_second_cluster
    trap after_failed_up EXIT
    trap 'exit 130' INT TERM
    mkdir -p "$STATE"/{run,log}

    if ((with_nodes)); then
        full_up
    else
        control_plane_up "$controllers"
    fi
    trap - EXIT
    say "up after $(seconds_since "$before"); kubectl: hack/cluster kubectl get nodes"
}

control_plane_up() { # CONTROLLERS
    step machines "namespaces" start_machines control-plane
    step network "network" network_up
    step pki "certificates" pki_up
    step etcd "etcd and API server started" store_and_api_up
    step api "API server ready" wait_for_api
    (($1 == 0)) || step controllers "controllers" controllers_ready
}

full_up() {
    step hugepages "$HUGEPAGES_2MI hugepages of 2 MiB" hugepages_up
    # Before the machines: they see the mounts of the moment in which they are made.
    step cgroups "cgroups" cgroups_up
    step machines "namespaces of control-plane ${NODES[*]}" start_machines control-plane "${NODES[@]}"
    step network "network" network_up "${NODES[@]}"
    step pki "certificates" all_pki_up
    step etcd "etcd and API server started" store_and_api_up
    step containerd "containerd ready" for_nodes containerd_up containerd_ready
    step images "pause image" pause_image_up
    step api "API server ready" wait_for_api
    step controllers "controllers, scheduler" controllers_and_scheduler_up
    step kubelets "kubelet, kube-proxy started" for_nodes kubelet_up proxy_up
    step nodes "nodes Ready" wait_until "$NODE_DEADLINE_S" "nodes that are Ready" nodes_are_ready
    step accounts "default service account" wait_for_accounts
}

for_nodes() {
    local node action
    for action in "$@"; do
        for node in "${NODES[@]}"; do
            "$action" "$node"
        done
    done
}

start_machines() {
    local machine
    pause_up
    (($# == 1)) || node_folders_up
    for machine in "$@"; do
        if [[ $machine == control-plane ]]; then
            machine_start "$machine"
        else
            machine_start "$machine" "$DISKS/$machine"
        fi
    done
}

all_pki_up() {
    pki_up
    nodes_pki_up
}

# The API server waits for etcd by itself.
store_and_api_up() {
    etcd_up
    apiserver_up
}

containerd_ready() {
    wait_until "$CONTAINERD_DEADLINE_S" "containerd of $1" containerd_is_ready "$1"
}

wait_for_api() { wait_until "$API_DEADLINE_S" "the API server's /readyz" apiserver_is_ready; }

controllers_and_scheduler_up() {
    controllers_up
    scheduler_up
}

controllers_ready() {
    controllers_up
    wait_for_accounts
}

wait_for_accounts() {
    wait_until "$API_DEADLINE_S" "the service account default/default" \
        kubectl_here -n default get serviceaccount default
}
