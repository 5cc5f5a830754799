# shellcheck shell=bash
# Sourced by .ci/run and hack/verify-all: steps that stop at the first failure, and how long each took.

times=()

# step NAME COMMAND [ARGUMENTS]
step() {
    local name="$1" start=$SECONDS
    shift
    echo "=== $name"
    "$@"
    times+=("$(printf '%-16s %5d s' "$name" $((SECONDS - start)))")
}

# For an exit trap: also after a failure, so that it shows what had passed.
print_times() {
    echo "=== times"
    printf '%s\n' "${times[@]}"
}
