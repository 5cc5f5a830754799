# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # set or used by the script that sources this
# The test KMS and what is pinned for it. Expects: dir, bin.

# start_kms [LISTEN [PREFIX...]]: the prefix runs it elsewhere, in the cluster's network for example.
start_kms() {
    local listen="${1:-127.0.0.1:0}"
    shift || true
    # The second start keeps the first one's port: the dataplane's settings name it.
    [ -s "$dir/kms.port" ] && listen="127.0.0.1:$(cat "$dir/kms.port")"
    start kms "$@" "$bin/devkms" serve "$dir/kms" --listen "$listen" --port-file "$dir/kms.port" \
        --attestation-root enclave/insecure/testdata/root.der
    until_ok 20 "test KMS" test -s "$dir/kms.port"
}

key_arn() { json_field keyArn "$dir/kms/state.json"; }

# Requests that the test KMS has answered so far, over all actions.
kms_requests() { "$bin/devkms" stats "$dir/kms" | json_number total; }

write_pins() {
    cat <<PINS
app: sigil-demo
keyspaces:
  - prefix: ""
    kmsKeyArns: [$(key_arn)]
    region: us-east-1
    host: kms.us-east-1.amazonaws.com
tlsRoots: [$dir/kms/tls-root.pem]
attestationRoot: $PWD/enclave/insecure/testdata/root.der
verifyMode: batchSample
parentCid: 2
insecure: true
PINS
}
