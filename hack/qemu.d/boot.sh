# shellcheck shell=bash
# One enclave in the foreground.

paths() {
    local machine vsock kernel clock
    machine=$(machine_folder) vsock=$(vsock_folder) kernel=$(kernel_folder) clock=$(clock_folder)
    need_folders "$machine" "$vsock" "$kernel" "$clock"
    echo "QEMU=$machine/qemu-system-x86_64"
    echo "VHOST_DEVICE_VSOCK=$vsock/bin/vhost-device-vsock"
    echo "KERNEL=$kernel/bzImage"
    echo "FIRMWARE=$machine/firmware"
    echo "TSC_KHZ=$("$clock/tsc-khz")"
}

need_folders() {
    local folder
    for folder in "$@"; do
        [[ -d $folder ]] || fail "${folder##*/} is not built; run: hack/qemu tools"
    done
}

# boot EIF [OPTIONS]: see `hack/qemu help`.
boot() {
    local eif="" dir="" cid=4 memory=256 cpus=1 timeout="" append="" heartbeat=""
    while (($#)); do
        case $1 in
        --dir) dir=${2:?$1 needs a folder} && shift ;;
        --cid) check_number "$1" "${2:-}" 3 && cid=$2 && shift ;;
        --memory) check_number "$1" "${2:-}" 64 && memory=$2 && shift ;;
        --cpus) check_number "$1" "${2:-}" 1 && cpus=$2 && shift ;;
        --timeout) check_number "$1" "${2:-}" 1 && timeout=$2 && shift ;;
        --append) append=" ${2?$1 needs a text}" && shift ;;
        --heartbeat) heartbeat=yes ;;
        -*) fail "boot: unknown option $1" ;;
        *) eif=$1 ;;
        esac
        shift
    done
    need_folders "$(machine_folder)" "$(vsock_folder)" "$(clock_folder)"
    [[ -f $eif ]] || fail "boot: there is no image '$eif'"
    [[ -n $dir ]] || dir=$(mktemp -d)
    mkdir -p "$dir"
    dir=$(readlink -f "$dir")
    ((${#dir} + 15 <= SOCKET_PATH_MAX)) || fail "boot: $dir is too long a name for unix sockets"
    rm -f "$dir"/{vhost.sock,vm.vsock,vm.vsock_9000,qmp.sock,memory}
    RUNNING=()
    # The helpers end with this process, also when it is killed.
    CHILD=(setpriv --pdeathsig TERM --)
    trap stop_all EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    start_vsock "$dir" "$cid"
    [[ -z $heartbeat ]] || start_heartbeat "$dir"
    start_machine "$dir" "$eif" "$memory" "$cpus" "$append"
    echo "CID=$cid"
    printf '%s=%s\n' DIR "$dir" VSOCK "$dir/vm.vsock" MEMORY "$dir/memory" QEMU_PID "$QEMU_PID"
    await_machine "$timeout" "$dir/qemu.log"
}

check_number() {
    if ! [[ $2 =~ ^[1-9][0-9]{0,8}$ ]] || (($2 < $3)); then
        fail "boot: $1 needs a number of at least $3"
    fi
}

start_vsock() {
    "${CHILD[@]}" "$(vsock_folder)/bin/vhost-device-vsock" \
        --vm "guest-cid=$2,socket=$1/vhost.sock,uds-path=$1/vm.vsock" >"$1/vsock.log" 2>&1 &
    RUNNING+=($!)
    echo $! >"$1/vsock.pid"
    wait_for_socket "$1/vhost.sock" $! "$1/vsock.log"
}

start_heartbeat() {
    "${CHILD[@]}" /usr/bin/python3 "$HACK/qemu.d/heartbeat" "$1/vm.vsock_9000" >"$1/heartbeat.log" 2>&1 &
    RUNNING+=($!)
    wait_for_socket "$1/vm.vsock_9000" $! "$1/heartbeat.log"
}

# wait_for_socket PATH PID LOG
wait_for_socket() {
    local end=$((SECONDS + SOCKET_DEADLINE_S))
    until [[ -S $1 ]]; do
        kill -0 "$2" 2>/dev/null || fail "boot: a helper ended early: $(tail -n 3 "$3")"
        ((SECONDS < end)) || fail "boot: no $1 within $SOCKET_DEADLINE_S s"
        sleep 0.02
    done
}

# start_machine DIR EIF MIB CPUS APPEND. panic and reboot: a guest whose init ends takes QEMU with
# it. tsc: without it a guest on a busy host counts time in ticks of 10 ms. None of the arguments is
# measured. -cpu max has SHA-NI and AVX2, as the instances that have enclaves do.
start_machine() {
    local dir=$1 eif=$2 machine role clock
    clock="tsc=reliable tsc_early_khz=$("$(clock_folder)/tsc-khz")"
    machine=$(machine_folder)
    role=$(sed -n 's/^pub const TEST_ROLE_ARN: &str = "\(.*\)";$/\1/p' "$ROOT/enclave/authoring/src/measure.rs")
    "${CHILD[@]}" "$machine/qemu-system-x86_64" -L "$machine/firmware" -accel tcg -cpu max \
        -m "$3" -smp "$4" \
        -machine "nitro-enclave,vsock=vsock,id=$INSTANCE-enc0123456789abcde" \
        -machine "parent-id=$INSTANCE,parent-role=$role" \
        -nodefaults -no-user-config -display none -no-reboot \
        -serial "file:$dir/console.log" -qmp "unix:$dir/qmp.sock,server=on,wait=off" \
        -chardev "socket,id=vsock,path=$dir/vhost.sock" \
        -kernel "$eif" -append "panic=-1 reboot=t $clock$5" >"$dir/qemu.log" 2>&1 &
    QEMU_PID=$!
    RUNNING+=("$QEMU_PID")
    echo "$QEMU_PID" >"$dir/qemu.pid"
    local end=$((SECONDS + SOCKET_DEADLINE_S)) memory=""
    # The guest's memory is a memfd of QEMU: whoever runs as the same user may read it here.
    until memory=$(memory_of "$QEMU_PID") && [[ -n $memory ]]; do
        kill -0 "$QEMU_PID" 2>/dev/null || fail "boot: QEMU ended: $(tail -n 5 "$dir/qemu.log")"
        ((SECONDS < end)) || fail "boot: QEMU made no memory within $SOCKET_DEADLINE_S s"
        sleep 0.02
    done
    ln -s "$memory" "$dir/memory"
}

memory_of() {
    find "/proc/$1/fd" -lname '/memfd:memory-backend-memfd*' 2>/dev/null | head -n 1
}

# await_machine SECONDS LOG: the exit code of QEMU, or 124. No SECONDS: for ever.
await_machine() {
    local code=0
    if [[ -n $1 ]]; then
        "${CHILD[@]}" timeout "$1" tail --pid "$QEMU_PID" -f /dev/null &
        RUNNING+=($!)
        wait $! || fail_timeout "$1"
    fi
    wait "$QEMU_PID" || code=$?
    ((code == 0)) || say "boot: QEMU ended: $(tail -n 5 "$2")"
    exit "$code"
}

fail_timeout() {
    say "boot: still running after $1 s"
    exit 124
}

# By the ids of what was started here, and only these.
stop_all() {
    ((${#RUNNING[@]})) || return 0
    kill "${RUNNING[@]}" 2>/dev/null || true
    wait "${RUNNING[@]}" 2>/dev/null || true
}
