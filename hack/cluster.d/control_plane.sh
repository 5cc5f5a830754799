# shellcheck shell=bash
# etcd, API server, controllers, scheduler: all in the machine control-plane.

etcd_up() {
    (umask 077 && mkdir -p "$STATE/etcd")
    # Nothing here outlives a power failure, so etcd need not wait for the disk.
    machine_run control-plane etcd "$BIN/etcd" --name=etcd --data-dir="$STATE/etcd" \
        --unsafe-no-fsync --logger=zap --log-level=warn \
        --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
        --listen-peer-urls=http://127.0.0.1:2380 \
        --initial-advertise-peer-urls=http://127.0.0.1:2380 \
        --initial-cluster=etcd=http://127.0.0.1:2380
}

apiserver_up() {
    # Names of nodes do not resolve: kubelets are reached by address (else `kubectl logs` fails).
    machine_run control-plane kube-apiserver "$BIN/kube-apiserver" \
        --etcd-servers=http://127.0.0.1:2379 \
        --advertise-address="$API_ADDRESS" \
        --secure-port="$API_PORT" \
        --tls-cert-file="$PKI/kube-apiserver.crt" \
        --tls-private-key-file="$PKI/kube-apiserver.key" \
        --client-ca-file="$PKI/ca.crt" \
        --kubelet-certificate-authority="$PKI/ca.crt" \
        --kubelet-client-certificate="$PKI/kubelet-client.crt" \
        --kubelet-client-key="$PKI/kubelet-client.key" \
        --kubelet-preferred-address-types=InternalIP \
        --service-account-issuer=https://kubernetes.default.svc \
        --service-account-key-file="$PKI/service-accounts.pub" \
        --service-account-signing-key-file="$PKI/service-accounts.key" \
        --service-cluster-ip-range="$SERVICE_RANGE" \
        --authorization-mode=Node,RBAC \
        --enable-admission-plugins=NodeRestriction \
        --allow-privileged=true
}

apiserver_is_ready() { kubectl_here get --raw=/readyz; }

controllers_up() {
    machine_run control-plane kube-controller-manager "$BIN/kube-controller-manager" \
        --kubeconfig="$PKI/kube-controller-manager.kubeconfig" \
        --authentication-kubeconfig="$PKI/kube-controller-manager.kubeconfig" \
        --authorization-kubeconfig="$PKI/kube-controller-manager.kubeconfig" \
        --bind-address=127.0.0.1 \
        --use-service-account-credentials \
        --root-ca-file="$PKI/ca.crt" \
        --flex-volume-plugin-dir=/run/volumeplugins \
        --service-account-private-key-file="$PKI/service-accounts.key" \
        --leader-elect=false
}

scheduler_up() {
    machine_run control-plane kube-scheduler "$BIN/kube-scheduler" \
        --kubeconfig="$PKI/kube-scheduler.kubeconfig" \
        --authentication-kubeconfig="$PKI/kube-scheduler.kubeconfig" \
        --authorization-kubeconfig="$PKI/kube-scheduler.kubeconfig" \
        --bind-address=127.0.0.1 \
        --leader-elect=false
}

# Plain kubectl outside cannot reach the API server, by design: this one runs inside its network.
kubectl_here() { in_network control-plane "$BIN/kubectl" --kubeconfig="$KUBECONFIG_FILE" "$@"; }
