# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # set or used by the script that sources this
# Steps of hack/demo. Expects: dir, bin. Sets: url.

challenge=c0ffee51617172

# On failure the logs stay, and their end is shown.
finish() {
    local status=$?
    stop_all
    if [ "$status" -eq 0 ]; then
        rm -rf "$dir"
        return
    fi
    for log in "$dir"/*.log; do
        [ -s "$log" ] || continue
        echo "--- ${log##*/} (end)" >&2
        tail -n 15 "$log" >&2
    done
    echo "${program:-demo}: failed; everything is in $dir" >&2
    exit "$status"
}

stop_all() {
    for name in dataplane launcher kms; do stop_process "$name"; done
}

# Starts the dataplane and waits until it answers honestly. Sets url and admin.
start_dataplane() {
    # Test credentials of the test KMS; the dataplane reads them as it reads any AWS credentials.
    AWS_SHARED_CREDENTIALS_FILE="$dir/kms/credentials" \
        start dataplane "$bin/sigil-dataplane" serve --config "$dir/dataplane.yaml"
    until_ok 20 "dataplane" grep -q '"message":"listening"' "$dir/dataplane.log"
    url="http://$(listening public)"
    until_ok 20 "attested enclave" attested
}

attested() { curl -fsS "http://$(listening admin)/debug/status" | grep -qE '"attested": ?true'; }

listening() { grep -m 1 '"message":"listening"' "$dir/dataplane.log" | grep -oE "\"$1\":\"[^\"]*\"" | cut -d'"' -f4; }

create_key() {
    "$bin/sigil-dataplane" ctl create --url "$url" --wait 20 --challenge "$challenge" >"$dir/key.json" ||
        fail "create failed"
}

# sign_key DIGEST [FILE]: waits as long as the answer says that waiting helps.
sign_key() {
    "$bin/sigil-dataplane" ctl sign --url "$url" --wait 20 --der --key-id "$(json_field keyId "$dir/key.json")" \
        --digest "$1" >"${2:-$dir/signature.json}" || fail "sign failed"
}

# The enclave is a child of the launcher that we started.
kill_enclave() {
    local enclave
    enclave="$(cat "/proc/${pids[launcher]}/task/${pids[launcher]}/children")"
    kill -KILL "${enclave%% *}"
}

# One request while the DEK is locked: prints what an application sees.
locked_answer() {
    local body answer deadline=$((SECONDS + 20))
    body="{\"keyId\":\"$(json_field keyId "$dir/key.json")\",\"digest\":\"$1\"}"
    # Until the new enclave is attested the honest answer is ENCLAVE_UNAVAILABLE.
    until answer="$(curl -sS -i -X POST "$url/sign" -d "$body")" && grep -q UNLOCK_REQUIRED <<<"$answer"; do
        ((SECONDS < deadline)) || fail "never answered UNLOCK_REQUIRED: $answer"
    done
    printf '%s; %s; %s' "$(head -n 1 <<<"$answer" | tr -d '\r')" \
        "$(grep -i '^retry-after-ms:' <<<"$answer" | tr -d '\r')" "$(grep -oE '"code":"[A-Z_]+"' <<<"$answer")"
}

recover() { sign_key "$1" "$dir/signature-again.json"; }

# SIGIL_DEMO_SIGNATURES requests (200) over one connection, by curl, one after the other.
latencies() {
    local body count="${SIGIL_DEMO_SIGNATURES:-200}"
    body="{\"keyId\":\"$(json_field keyId "$dir/key.json")\",\"digest\":\"$1\"}"
    for ((i = 0; i < count; i++)); do
        ((i == 0)) || echo next
        printf 'url = "%s/sign"\ndata = "%s"\noutput = /dev/null\nwrite-out = "%%{http_code} %%{time_total}\\n"\n' \
            "$url" "${body//\"/\\\"}"
    done >"$dir/curl.config"
    curl -sS --config "$dir/curl.config" >"$dir/times.txt"
    [ "$(grep -c '^200 ' "$dir/times.txt")" -eq "$count" ] || fail "not every request was signed"
    sort -k2 -n "$dir/times.txt" | awk -v n="$count" '
        NR == int(n / 2) { p50 = $2 } NR == int(n * 0.99) { p99 = $2 }
        END { printf "   sign over HTTP, one at a time, %d requests: p50 %.2f ms, p99 %.2f ms\n", n, p50 * 1000, p99 * 1000 }'
}

start_launcher() {
    start launcher "$bin/sigil-launcher" process --enclave "$bin/sigil-enclave-insecure" \
        --pins "$dir/image/pins.cbor" --listen "unix:$dir/enclave.sock" --handoff "$dir/handoff.sock"
}

write_settings() {
    cat <<SETTINGS
listeners:
  public: 127.0.0.1:0
  admin: 127.0.0.1:0
enclave:
  handoff: $dir/handoff.sock
  attestationRoot: $PWD/enclave/insecure/testdata/root.der
  measurementsFile: $dir/image/measurements.json
kms:
  region: us-east-1
  keyArn: $(key_arn)
  address: 127.0.0.1:$(cat "$dir/kms.port")
store:
  embedded:
    path: $dir/store
SETTINGS
}
