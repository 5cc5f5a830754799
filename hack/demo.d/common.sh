# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # set or used by the script that sources this
# What both demos use. Expects: dir. Processes are ended by the pid that we started.

declare -A pids=()
step_number=0

heading() {
    step_number=$((step_number + 1))
    printf '\n%d. %s\n' "$step_number" "$*"
}

say() { printf '   %s\n' "$*"; }

fail() {
    printf '%s: %s\n' "${program:-demo}" "$*" >&2
    exit 1
}

# start NAME COMMAND...: in the background, log in NAME.log, pid kept.
start() {
    local name="$1"
    shift
    "$@" >>"$dir/$name.log" 2>&1 &
    pids[$name]=$!
}

stop_process() {
    local name="$1" pid="${pids[$1]:-}"
    [ -n "$pid" ] || return 0
    unset "pids[$name]"
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

# until_ok SECONDS WHAT COMMAND...: repeats a command until it succeeds.
until_ok() {
    local deadline=$((SECONDS + $1)) what="$2"
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || fail "$what: not within its time"
        read -rt 0.05 <> <(:) || true
    done
}

json_field() { grep -oE "\"$1\": *(\"[^\"]*\"|[0-9]+)" "$2" | head -n 1 | sed -E 's/^"[^"]*": *"?([^"]*)"?$/\1/'; }

json_number() { grep -oE "\"$1\": *[0-9]+" | grep -oE '[0-9]+$'; }

build_binaries() {
    cargo build --locked --bins \
        --package devkms --package sigil-dataplane --package sigil-launcher --package sigil-enclave-insecure
    local triple
    triple="$(rustc -vV | awk '/^host:/ {print $2}')"
    bin="${CARGO_TARGET_DIR:-target}/$triple/debug"
}

# The public key as SubjectPublicKeyInfo: a fixed DER header for secp256k1 and 33 compressed bytes.
openssl_verifies() {
    local header=3036301006072a8648ce3d020106052b8104000a032200
    from_hex "$header$(json_field publicKey "$dir/key.json")" >"$dir/public.der"
    from_hex "$(json_field der "$dir/signature.json")" >"$dir/signature.der"
    from_hex "$1" >"$dir/digest.bin"
    openssl pkeyutl -verify -pubin -keyform DER -inkey "$dir/public.der" -sigfile "$dir/signature.der" \
        -in "$dir/digest.bin" >/dev/null || fail "OpenSSL refuses the signature"
}

# shellcheck disable=SC2059,SC2001 # the format is the data: \\x escapes
from_hex() { printf "$(sed 's/../\\x&/g' <<<"$1")"; }
