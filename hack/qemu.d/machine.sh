# shellcheck shell=bash
# QEMU with the machine nitro-enclave, which no Debian release builds.

machine_recipe() { declare -f compile_machine | sha256sum | cut -c 1-12; }
machine_folder() { echo "$CACHE/machine-${QEMU_VERSION//[:+]/_}-$(machine_recipe)"; }

build_machine() {
    local target
    target=$(machine_folder)
    [[ ! -d $target ]] || return 0
    (
        need enclave dpkg-source ninja pkg-config flex bison python3 gcc
        take_lock machine
        [[ ! -d $target ]] || exit 0
        new_folder machine
        say "building QEMU $QEMU_VERSION (once, about 3 minutes)"
        fetch_machine
        compile_machine
        finish "$WORK/out" "$target"
    )
}

# QEMU's source with Debian's patches in $WORK/source, meson in $WORK/meson.
fetch_machine() {
    local dsc version=$QEMU_VERSION
    open_archive "${QEMU_SUITES[@]}"
    versions_of qemu source | grep -qxF "$version" || {
        version=$(versions_of qemu source | tail -n 1)
        [[ -n $version ]] || fail "no mirror of this machine has the source of QEMU (${QEMU_SUITES[*]})"
        say "the mirrors have no QEMU $QEMU_VERSION any more; taking $version"
    }
    mkdir -p "$WORK/download" "$WORK/out"
    # apt checks each file against the index, and the index against Debian's signature.
    cd "$WORK/download" || exit
    quietly "$WORK/log" apt-get "${APT[@]}" source --download-only "qemu=$version"
    quietly "$WORK/log" apt-get "${APT[@]}" download meson
    dsc=$(sha256_of ./*.dsc)
    [[ $version != "$QEMU_VERSION" || $dsc == "$QEMU_DSC_SHA256" ]] ||
        fail "the source of QEMU $version has sha256 $dsc and not $QEMU_DSC_SHA256; nothing was built"
    printf 'qemu %s\nsha256 of its .dsc %s\n' "$version" "$dsc" >"$WORK/out/provenance"
    quietly "$WORK/log" dpkg-source --extract ./*.dsc "$WORK/source"
    dpkg-deb --extract ./meson_*.deb "$WORK/meson"
}

compile_machine() {
    local name
    mkdir "$WORK/build"
    cd "$WORK/build" || exit
    printf 'CONFIG_NITRO_ENCLAVE=y\n' >"$WORK/source/configs/devices/x86_64-softmmu/nitro.mak"
    # Nothing of this machine's Python, and nothing from anywhere but Debian's packages.
    export PATH=$WORK/meson/usr/bin:/usr/bin:/bin
    export PYTHONPATH=$WORK/meson/usr/lib/python3/dist-packages
    quietly "$WORK/log" "$WORK/source/configure" --python=/usr/bin/python3 --disable-download \
        --target-list=x86_64-softmmu --with-devices-x86_64=nitro --without-default-features \
        --without-default-devices --enable-system --enable-tcg --enable-fdt=system \
        --enable-gnutls --enable-libcbor --enable-vhost-user --disable-docs --disable-werror \
        --disable-install-blobs --disable-debug-info
    quietly "$WORK/log" ninja -j "$(nproc)" qemu-system-x86_64
    strip -o "$WORK/out/qemu-system-x86_64" qemu-system-x86_64
    # The firmware of Debian's own package, beside the program that it was found to work with.
    mkdir "$WORK/out/firmware"
    for name in qboot.rom linuxboot_dma.bin kvmvapic.bin; do
        cp --dereference "$(firmware_of_debian "$name")" "$WORK/out/firmware/$name"
    done
    "$WORK/out/qemu-system-x86_64" -machine help | grep -q '^nitro-enclave ' ||
        fail "QEMU was built without its nitro-enclave machine"
}

firmware_of_debian() {
    [[ -e /usr/share/qemu/$1 ]] || fail "$1 is missing; as root: hack/packages enclave"
    echo "/usr/share/qemu/$1"
}

# The rate of the host's time stamp counter, which the guest cannot find out by itself.
clock_folder() { echo "$CACHE/clock-$(sha256sum "$HACK/qemu.d/tsc-khz.c" | cut -c 1-12)"; }

build_clock() {
    local target
    target=$(clock_folder)
    [[ ! -d $target ]] || return 0
    (
        need build gcc
        take_lock clock
        [[ ! -d $target ]] || exit 0
        new_folder clock
        mkdir "$WORK/out"
        gcc -O2 -Wall -Wextra -Werror -o "$WORK/out/tsc-khz" "$HACK/qemu.d/tsc-khz.c"
        finish "$WORK/out" "$target"
    )
}
