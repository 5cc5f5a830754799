# shellcheck shell=bash
# vhost-device-vsock: the vsock device of QEMU's enclave, towards unix sockets of the host.

vsock_folder() { echo "$CACHE/vhost-device-vsock-$VSOCK_VERSION"; }

build_vsock() {
    local target
    target=$(vsock_folder)
    [[ ! -d $target ]] || return 0
    (
        need build cargo gcc
        take_lock vsock
        [[ ! -d $target ]] || exit 0
        new_folder vsock
        say "building vhost-device-vsock $VSOCK_VERSION (once, about a minute)"
        toolchain=$(sed -n 's/^channel = "\(.*\)"$/\1/p' "$ROOT/rust-toolchain.toml")
        # From another folder, so that the workspace's static target does not apply to it.
        cd /
        export RUSTUP_TOOLCHAIN=$toolchain CARGO_TARGET_DIR=$WORK/target
        quietly "$WORK/log" cargo install --locked --version "$VSOCK_VERSION" \
            --root "$WORK/out" vhost-device-vsock
        finish "$WORK/out" "$target"
    )
}
