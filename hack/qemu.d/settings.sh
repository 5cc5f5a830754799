# shellcheck shell=bash
# shellcheck disable=SC2034 # used by the other parts
# Versions, folders, bounds.

ROOT=$(dirname "$HACK")
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/sigil/qemu

# A test tool: when the mirrors no longer have this version, the newest of theirs does, and says so.
QEMU_VERSION=1:10.0.13+ds-0+deb13u1
QEMU_DSC_SHA256=a426c892e5369058c3423816c8625bc8010bb5a58ece57261f62b64ee4d765ad
QEMU_SUITES=(trixie trixie-updates trixie-security)

VSOCK_VERSION=0.3.0

# Part of every measurement: exactly this source, or nothing.
KERNEL_FOLDER=$ROOT/enclave/image/kernel
KERNEL_PINS=$KERNEL_FOLDER/pins
KERNEL_PINS_SHOWN=enclave/image/kernel/pins
KERNEL_PACKAGE=linux-source-6.12
KERNEL_SUITES=(trixie trixie-updates trixie-security bookworm-backports bookworm-security)

# vhost-device-vsock makes its socket in some milliseconds; a machine under load gets more.
SOCKET_DEADLINE_S=20
# sun_path holds 108 bytes with its final zero; the longest name in DIR is vm.vsock_65535.
SOCKET_PATH_MAX=107

# What the emulated NSM says of the parent instance; its role is the tests' (PCR3 of their policies).
INSTANCE=i-0123456789abcdef0
