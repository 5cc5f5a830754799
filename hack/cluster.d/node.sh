# shellcheck shell=bash
# A node: containerd, kubelet and kube-proxy in a machine of its own.

# Its socket as the machine sees it; /run is the machine's own.
CONTAINERD_SOCKET=/run/containerd/containerd.sock

containerd_up() {
    local node=$1
    write_cni "$node"
    cat >"$STATE/$node/containerd.toml" <<EOF
version = 3
root = "$STATE/$node/containerd"
state = "/run/containerd"
# Only the runtime for pods is used, and only its default snapshotter.
disabled_plugins = [
  "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
address = "$CONTAINERD_SOCKET"

[plugins."io.containerd.internal.v1.opt"]
path = "/run/containerd/opt"

[plugins."io.containerd.nri.v1.nri"]
disable = true

[plugins."io.containerd.cri.v1.images".pinned_images]
# There is no registry to pull it from: it is loaded like any other image.
sandbox = "$PAUSE_IMAGE"

[plugins."io.containerd.cri.v1.runtime"]
# Where containerd lacks CAP_SYS_RESOURCE, runc may not lower a score of its own.
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "$STATE/$node/cni"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "$BIN/runc"
SystemdCgroup = false
EOF
    # containerd finds its shim by PATH.
    machine_run "$node" "$node.containerd" env PATH="$BIN:$PATH" \
        "$BIN/containerd" --config "$STATE/$node/containerd.toml"
}

containerd_is_ready() { node_ctr "$1" version; }

node_ctr() {
    local node=$1
    shift
    in_machine "$node" "$BIN/ctr" --address "$CONTAINERD_SOCKET" --namespace k8s.io "$@"
}

kubelet_up() {
    local node=$1 address
    address=$(node_address "$node")
    # systemReserved leaves one shared core to the static CPU Manager, and on two cores 1900m to
    # pods: one exclusive core and a rest, what a signer pod needs. There is no registry, so images
    # must never be collected, and a disk that is nearly full is no reason to evict.
    cat >"$STATE/$node/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $address
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: "$PKI/ca.crt"}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP/$node
containerRuntimeEndpoint: unix://$CONTAINERD_SOCKET
cpuManagerPolicy: static
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
failCgroupV1: false
failSwapOn: false
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
maxPods: 50
resolvConf: ""
systemReserved: {cpu: 100m}
tlsCertFile: $PKI/$node.crt
tlsPrivateKeyFile: $PKI/$node.key
volumePluginDir: /var/lib/kubelet/volumeplugins
EOF
    machine_run "$node" "$node.kubelet" env PATH="$BIN:$PATH" "$BIN/kubelet" \
        --config="$STATE/$node/kubelet.yaml" --kubeconfig="$PKI/$node.kubeconfig" \
        --root-dir=/var/lib/kubelet --cert-dir=/var/lib/kubelet/pki \
        --hostname-override="$node" --node-ip="$address"
}

# The table of connections is the machine's, not the namespace's, so its size is left alone (0).
proxy_up() {
    machine_run "$1" "$1.kube-proxy" "$BIN/kube-proxy" --kubeconfig="$PKI/kube-proxy.kubeconfig" \
        --hostname-override="$1" --proxy-mode=nftables \
        --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 \
        --conntrack-tcp-timeout-close-wait=0
}

nodes_are_ready() {
    local ready columns='{.status.conditions[?(@.type=="Ready")].status} {.spec.taints}'
    ready=$(kubectl_here get nodes -o "jsonpath={range .items[*]}$columns{'\n'}{end}")
    [[ $(grep -c '^True $' <<<"$ready") == "${#NODES[@]}" ]]
}
