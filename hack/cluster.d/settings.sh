# shellcheck shell=bash
# shellcheck disable=SC2034 # the other parts read these
# Names, addresses and folders of a cluster.

CLUSTER=${SIGIL_CLUSTER_NAME:-sigil}

# Where a cluster keeps its certificates, logs, pid files and container data. It is state, not a
# cache: losing it while the cluster runs would leave nobody who knows what to undo. It lies
# outside the checkout, so that `git clean` or a removed clone does not lose it either, and every
# clone sees the same cluster.
STATE_BASE=${SIGIL_CLUSTER_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/sigil/cluster}
STATE=$STATE_BASE/$CLUSTER
# What a node keeps on its disk for itself: /var/lib/sigil in node N is $DISKS/N here. Volumes of
# pods belong there. It is the one thing that `down` leaves: keys outlive clusters.
DISKS=$STATE.disks
LAST_FAILURE=$STATE_BASE/$CLUSTER.last-failure

BIN=$("$HACK/tools/path")
KUBECONFIG_FILE=$STATE/kubeconfig
CGROUP=sigil-cluster-$CLUSTER
NODES=(node-1 node-2)

# 198.18.0.0/15 is set apart for tests of networks (RFC 2544), so no route of a real site is hidden.
# The whole cluster lives in namespaces of its own; two clusters may use the same addresses.
API_ADDRESS=198.18.0.1
API_PORT=6443
SERVICE_RANGE=198.19.0.0/24
SERVICE_API_ADDRESS=198.19.0.1

PAUSE_IMAGE=sigil.dev/pause:dev
# 256 MiB: one enclave in process mode and its neighbours. Each kubelet believes it has them all.
HUGEPAGES_2MI=${SIGIL_CLUSTER_HUGEPAGES:-128}

# Deadlines in seconds. They are for a machine that is busy with other builds; an idle one needs a
# tenth. A wait ends earlier when the process that it waits for has ended.
PROCESS_DEADLINE_S=30
API_DEADLINE_S=120
CONTAINERD_DEADLINE_S=60
NODE_DEADLINE_S=120
END_DEADLINE_S=20
# What the processes of pods get between SIGTERM and SIGKILL at `down`.
POD_GRACE_S=3
LOCK_DEADLINE_S=300

# node_address NODE / node_pods NODE: node-N has 198.18.0.(10+N) and the pods 198.18.N.0/24.
node_address() { echo "198.18.0.$((10 + ${1#node-}))"; }
node_pods() { echo "198.18.${1#node-}.0/24"; }
