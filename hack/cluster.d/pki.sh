# shellcheck shell=bash
# Certificates (one CA, ECDSA P-256, 30 days) and the kubeconfig of each client.

PKI=$STATE/pki

pki_up() {
    (umask 077 && mkdir -p "$PKI")
    new_key ca
    openssl req -x509 -new -key "$PKI/ca.key" -subj /CN=sigil-cluster-ca -days 30 \
        -out "$PKI/ca.crt" -addext "basicConstraints=critical,CA:true" \
        -addext "keyUsage=critical,keyCertSign,cRLSign"
    new_key service-accounts
    openssl pkey -in "$PKI/service-accounts.key" -pubout -out "$PKI/service-accounts.pub"

    certificate kube-apiserver /CN=kube-apiserver \
        "DNS:kubernetes.default.svc,IP:127.0.0.1,IP:$API_ADDRESS,IP:$SERVICE_API_ADDRESS"
    certificate kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
    client admin /O=system:masters/CN=admin "$KUBECONFIG_FILE"
    client kube-controller-manager /CN=system:kube-controller-manager
}

nodes_pki_up() {
    local node
    client kube-scheduler /CN=system:kube-scheduler
    client kube-proxy /CN=system:kube-proxy
    for node in "${NODES[@]}"; do
        client "$node" "/O=system:nodes/CN=system:node:$node" "" \
            "DNS:$node,IP:$(node_address "$node")"
    done
}

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/$1.key"; }

# certificate NAME SUBJECT [ALTERNATIVE_NAMES]: for a server and a client.
certificate() {
    local name=$1 subject=$2 names=${3:-DNS:$1}
    new_key "$name"
    openssl req -new -key "$PKI/$name.key" -subj "$subject" -out "$PKI/$name.csr"
    openssl x509 -req -in "$PKI/$name.csr" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -days 30 \
        -set_serial "0x$(openssl rand -hex 16)" -out "$PKI/$name.crt" -extfile <(
            echo "keyUsage=critical,digitalSignature"
            echo "extendedKeyUsage=serverAuth,clientAuth"
            echo "subjectAltName=$names"
        ) 2>/dev/null
    rm "$PKI/$name.csr"
}

# client NAME SUBJECT [KUBECONFIG] [ALTERNATIVE_NAMES]: a certificate and a kubeconfig with it.
client() {
    local name=$1 file=${3:-$PKI/$1.kubeconfig}
    certificate "$name" "$2" "${4:-}"
    (
        umask 077
        cat >"$file" <<EOF
apiVersion: v1
kind: Config
current-context: sigil
contexts: [{name: sigil, context: {cluster: sigil, user: $name}}]
clusters:
- name: sigil
  cluster:
    server: https://$API_ADDRESS:$API_PORT
    certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")
users:
- name: $name
  user:
    client-certificate-data: $(base64 -w0 "$PKI/$name.crt")
    client-key-data: $(base64 -w0 "$PKI/$name.key")
EOF
    )
}
