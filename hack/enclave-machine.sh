# shellcheck shell=bash
# Builds what the tests of booted images need, and names it for them. $1 is who speaks.

prepare() {
    echo "$1: QEMU's nitro-enclave, vsock, the kernel (built once, then cached)"
    hack/qemu tools
    paths=$(hack/qemu paths)
    path() { sed -n "s/^$1=//p" <<<"$paths"; }
    SIGIL_TEST_QEMU=$(path QEMU)
    SIGIL_TEST_FIRMWARE=$(path FIRMWARE)
    SIGIL_TEST_VHOST_DEVICE_VSOCK=$(path VHOST_DEVICE_VSOCK)

    echo "$1: images"
    images="${CARGO_TARGET_DIR:-target}/eif"
    cargo xtask eif --out "$images/production"
    cargo xtask eif --insecure --out "$images/insecure"
    SIGIL_TEST_EIF_PRODUCTION=$(readlink -f "$images/production/base.eif")
    SIGIL_TEST_EIF_INSECURE=$(readlink -f "$images/insecure/base.eif")

    echo "$1: building"
    cargo build --locked --quiet --package sigil-launcher
    triple="$(rustc -vV | awk '/^host:/ {print $2}')"
    SIGIL_TEST_LAUNCHER=$(readlink -f "${CARGO_TARGET_DIR:-target}/$triple/debug/sigil-launcher")
    export SIGIL_TEST_QEMU SIGIL_TEST_FIRMWARE SIGIL_TEST_VHOST_DEVICE_VSOCK SIGIL_TEST_LAUNCHER
    export SIGIL_TEST_EIF_PRODUCTION SIGIL_TEST_EIF_INSECURE
    cargo test --locked --quiet --package sigil-enclave-insecure --test enclave_machine --no-run
}
