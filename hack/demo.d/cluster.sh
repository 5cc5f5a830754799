# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # set or used by the script that sources this
# Steps of hack/demo-cluster. Expects: dir, bin, namespace, measurements.

kubectl() { hack/cluster kubectl "$@"; }
helm() { hack/cluster exec helm "$@"; }
ctl() { kubectl -n "$namespace" exec quickstart-0 -c serve -- /sigil-dataplane ctl "$@"; }

# Always takes the cluster down; on failure shows what a person needs first.
finish() {
    local status=$?
    trap - EXIT
    if [ "$status" -ne 0 ]; then
        show_state >&2 || true
    fi
    stop_process kms
    hack/cluster down >/dev/null || status=1
    if [ "$status" -eq 0 ]; then
        rm -rf "$dir"
    else
        echo "demo-cluster: failed; files are in $dir" >&2
    fi
    exit "$status"
}

show_state() {
    kubectl get nodes,signerpools,enclaveallocations,signerrings,pods,events -A -o wide
    kubectl -n "$namespace" describe signerpools,pods
    kubectl -n "$namespace" logs quickstart-0 -c serve --tail=40
    kubectl -n "$namespace" logs quickstart-0 -c launcher --tail=20
    kubectl -n sigil-system logs deployment/sigil-operator --tail=40
    tail -n 20 "$dir"/*.log
}

write_values() {
    cat <<VALUES
operator:
  image: sigil.dev/sigil-operator:dev
  replicas: 1
measurements:
  sigil.dev/sigil-enclave-insecure:dev:
    - $(tr -d '\n' <"$measurements")
VALUES
}

# The node's disk for the static local volume, as crds/examples/quickstart.yaml names it.
volume_folder() { echo "${SIGIL_CLUSTER_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/sigil/cluster}/$SIGIL_CLUSTER_NAME.disks/node-1/quickstart"; }

# A store of an earlier run is sealed under another test KMS key: it is moved aside, never deleted.
prepare_volume() {
    local folder
    folder="$(volume_folder)"
    if [ -e "$folder" ]; then
        mv "$folder" "$folder.$(stat -c %Y "$folder")"
    fi
    install -d -m 0700 -o 65532 -g 65532 "$folder"
}

create_credentials() {
    local credentials="$dir/kms/credentials.json"
    kubectl -n "$namespace" create secret generic test-kms \
        --from-literal=AWS_ACCESS_KEY_ID="$(json_field accessKeyId "$credentials")" \
        --from-literal=AWS_SECRET_ACCESS_KEY="$(json_field secretAccessKey "$credentials")" | sed 's/^/   /'
}

keep_logs() {
    mkdir -p "$dir/pod-logs"
    for container in launcher serve; do
        kubectl -n "$namespace" logs quickstart-0 -c "$container" >"$dir/pod-logs/$container.log"
    done
    kubectl -n sigil-system logs deployment/sigil-operator >"$dir/pod-logs/operator.log"
}

# What the operator made is gone, and the finalizer with it; the garbage collector follows owners in its own time.
nothing_left_in_namespace() {
    local deadline=$((SECONDS + 60)) left
    while left="$(objects_of_the_pool)" && [ -n "$left" ]; do
        ((SECONDS < deadline)) || fail "left in $namespace: $left"
    done
    say "nothing left in $namespace but the volume claim and the credentials"
}

objects_of_the_pool() {
    kubectl -n "$namespace" get -o name \
        pods,enclaveallocations,signerrings,configmaps,serviceaccounts,roles,rolebindings,poddisruptionbudgets |
        grep -vE '^(configmap/kube-root-ca.crt|serviceaccount/default)$' || true
}

# Mounts, cgroups, kernel settings, folders, network namespaces, and processes of the cluster, its pods and the demo.
machine_state() {
    traces "$(hack/tools/path)/*" "$bin/*" '/sigil-*' '*/pause'
    network_namespaces | sed 's/^/namespace /'
}

nothing_left_on_machine() {
    local left
    left="$(diff <(sort <<<"$before") <(machine_state | sort) | grep '^>' || true)"
    [ -z "$left" ] || fail "left on this machine: $left"
    say "no process, mount, cgroup, kernel setting or namespace left"
}
