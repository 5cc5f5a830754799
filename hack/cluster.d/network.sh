# shellcheck shell=bash
# The network: a bridge in the machine control-plane, a cable from it to each node, routes to the
# pods of each node. Nothing leads out: no process of the cluster can reach the site's network.
#
# Each node has a network namespace of its own, so it has its own kube-proxy, its own ports, and
# `trafficDistribution: PreferSameNode` means what it says. A node can be cut off by taking its
# cable down.

network_up() {
    local node
    in_network control-plane ip link add cluster type bridge
    in_network control-plane ip addr add "$API_ADDRESS/24" dev cluster
    in_network control-plane ip link set cluster up
    in_network control-plane sysctl -q -w net.ipv4.ip_forward=1
    # The API server and the kubelets want a default route to choose an address by.
    in_network control-plane ip route add default dev cluster
    for node in "$@"; do
        cable "$node"
    done
}

cable() {
    local node=$1 address
    address=$(node_address "$node")
    in_network control-plane ip link add "$node" type veth \
        peer name eth0 netns "$(machine_init "$node")"
    in_network control-plane ip link set "$node" master cluster up
    in_network "$node" ip addr add "$address/24" dev eth0
    in_network "$node" ip link set eth0 up
    in_network "$node" ip route add default via "$API_ADDRESS"
    in_network "$node" sysctl -q -w net.ipv4.ip_forward=1
    in_network control-plane ip route add "$(node_pods "$node")" via "$address"
}

# Pods get a cable each (`ptp`), not a port of a common bridge: on a bridge, an answer between two
# pods of a node passes by the node's address translation, and Services break unless the kernel
# module br_netfilter is loaded.
write_cni() { # NODE
    local folder=$STATE/$1/cni
    mkdir -p "$folder"
    cat >"$folder/10-cluster.conflist" <<EOF
{
  "cniVersion": "1.0.0",
  "name": "cluster",
  "plugins": [
    {
      "type": "ptp",
      "ipMasq": false,
      "ipam": {
        "type": "host-local",
        "dataDir": "/run/cni",
        "ranges": [[{"subnet": "$(node_pods "$1")"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    }
  ]
}
EOF
}
