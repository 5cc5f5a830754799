# shellcheck shell=bash
# The enclave's kernel: the pinned source and our patches, enclave.config over tinyconfig, checked,
# the same bytes in every folder and on every machine that has the pinned compiler.

# What a kernel says of its builder, instead of this machine, user and day.
KERNEL_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970'
KERNEL_IDENTITY=sigil

pin() { sed -n "s/^$1=//p" "$KERNEL_PINS"; }

# What decides the bytes besides source and configuration, as the programs call themselves.
kernel_toolchain() {
    echo "$(gcc --version | head -n 1); $(ld --version | head -n 1); $(gzip --version | head -n 1)"
}

kernel_recipe() {
    {
        pin SOURCE_SHA256
        kernel_toolchain
        cat "$KERNEL_FOLDER"/{enclave.config,required.config,check-config,patches/*}
        echo "$KERNEL_TIMESTAMP $KERNEL_IDENTITY"
        declare -f compile_kernel
    } | sha256sum | cut -c 1-12
}
kernel_folder() { echo "$CACHE/kernel-$(pin SOURCE_VERSION)-$(kernel_recipe)"; }

# build_kernel [DEB]
build_kernel() {
    local target
    need kernel gcc ld gzip
    target=$(kernel_folder)
    [[ ! -d $target ]] || return 0
    (
        need kernel xz make bc flex bison patch dpkg-deb
        take_lock kernel
        [[ ! -d $target ]] || exit 0
        new_folder kernel
        say "building the kernel $(pin SOURCE_VERSION) (once, about 3 minutes)"
        kernel_source "${1:-}"
        compile_kernel "$WORK/linux" "$WORK/out"
        check_kernel "$WORK/out/bzImage"
        finish "$WORK/out" "$target"
    )
}

# The pinned source package, from DEB, from an earlier download or from a mirror: sets SOURCE.
kernel_source() {
    local version sha256
    version=$(pin SOURCE_VERSION) sha256=$(pin SOURCE_SHA256)
    SOURCE=$CACHE/sources/${KERNEL_PACKAGE}_$version-${sha256:0:12}.deb
    mkdir -p "$CACHE/sources"
    if [[ -n $1 ]]; then
        keep_source "$1"
    elif [[ ! -f $SOURCE ]]; then
        download_source "$version"
        keep_source "$DOWNLOADED"
    fi
    # Checked each time: what lies in a cache may have been changed since.
    [[ $(sha256_of "$SOURCE") == "$sha256" ]] ||
        fail "$SOURCE is damaged; remove it and try again"
}

# keep_source FILE: into the cache, if it is the pinned one.
keep_source() {
    local sha256
    sha256=$(sha256_of "$1")
    [[ $sha256 == "$(pin SOURCE_SHA256)" ]] ||
        fail "$1 has sha256 $sha256; $KERNEL_PINS_SHOWN asks for $(pin SOURCE_SHA256)." \
            "If the archive replaced it for a good reason: hack/qemu accept-kernel $(pin SOURCE_VERSION)"
    cp "$1" "$WORK/source.deb"
    mv "$WORK/source.deb" "$SOURCE"
}

# download_source VERSION: sets DOWNLOADED. Debian's archives drop versions that were replaced.
download_source() {
    local newest
    open_archive "${KERNEL_SUITES[@]}"
    versions_of "$KERNEL_PACKAGE" binary >"$WORK/versions"
    if ! grep -qxF "$1" "$WORK/versions"; then
        newest=$(tail -n 1 "$WORK/versions")
        fail "no mirror of this machine has $KERNEL_PACKAGE $1 any more. Either hand in the file:" \
            "hack/qemu kernel --source FILE.deb, or take another version, which changes the" \
            "measurements of every image: hack/qemu accept-kernel${newest:+ $newest}"
    fi
    mkdir -p "$WORK/download"
    (cd "$WORK/download" &&
        quietly "$WORK/log" apt-get "${APT[@]}" download "$KERNEL_PACKAGE=$1")
    DOWNLOADED=$(find "$WORK/download" -name "${KERNEL_PACKAGE}_*.deb")
}

# compile_kernel FOLDER OUT: SOURCE unpacked in FOLDER; OUT gets bzImage, config, provenance.
compile_kernel() {
    # Nothing of the caller's environment: locale, time zone and flags would change the bytes.
    local clean=(env -i PATH=/usr/bin:/bin HOME=/nonexistent LC_ALL=C TZ=UTC
        KBUILD_BUILD_TIMESTAMP="$KERNEL_TIMESTAMP" KBUILD_BUILD_VERSION=1
        KBUILD_BUILD_USER="$KERNEL_IDENTITY" KBUILD_BUILD_HOST="$KERNEL_IDENTITY")
    local change
    mkdir -p "$1" "$2"
    dpkg-deb --fsys-tarfile "$SOURCE" | tar --extract --to-stdout "./usr/src/$KERNEL_PACKAGE.tar.xz" |
        tar --extract --xz --directory "$1" --strip-components=1
    cp "$KERNEL_FOLDER/enclave.config" "$1/kernel/configs/sigil.config"
    cd "$1" || exit
    for change in "$KERNEL_FOLDER"/patches/*.patch; do
        quietly "$WORK/log" patch --strip=1 --fuzz=0 --input="$change"
    done
    quietly "$WORK/log" "${clean[@]}" make tinyconfig
    quietly "$WORK/log" "${clean[@]}" make sigil.config
    "$KERNEL_FOLDER/check-config" .config >&2 || fail "the kernel's configuration is not as required"
    quietly "$WORK/log" "${clean[@]}" make -j "${JOBS:-$(nproc)}" bzImage
    cp arch/x86/boot/bzImage "$2/bzImage"
    cp .config "$2/config"
    printf 'source %s %s\ntoolchain %s\nsha256 %s\n' "$(pin SOURCE_VERSION)" \
        "$(pin SOURCE_SHA256)" "$(kernel_toolchain)" "$(sha256_of "$2/bzImage")" >"$2/provenance"
    cd /
}

# check_kernel FILE: the pinned bytes, unless another compiler made it.
check_kernel() {
    local sha256
    sha256=$(sha256_of "$1")
    [[ $sha256 != "$(pin KERNEL_SHA256)" ]] || return 0
    [[ "$(kernel_toolchain)" != "$(pin TOOLCHAIN)" ]] ||
        fail "the kernel has sha256 $sha256; $KERNEL_PINS_SHOWN asks for $(pin KERNEL_SHA256)." \
            "If its configuration was changed: hack/qemu accept-kernel $(pin SOURCE_VERSION)"
    say "NOT the released kernel: made by $(kernel_toolchain), released with $(pin TOOLCHAIN)." \
        "Good for tests; the measurements differ"
}

kernel_command() {
    local source=""
    while (($#)); do
        case $1 in
        --source)
            source=$(readlink -f "${2:?--source needs a file}")
            [[ -f $source ]] || fail "kernel: there is no file $2"
            shift 2
            ;;
        *) fail "kernel: unknown argument $1" ;;
        esac
    done
    build_kernel "$source"
    echo "$(kernel_folder)/bzImage"
}

write_pins() {
    cat >"$KERNEL_PINS" <<EOF
# The enclave's kernel. Written by \`hack/qemu accept-kernel\`; every line changes PCR0 and PCR1.
# Source: Debian's package $KERNEL_PACKAGE (upstream with Debian's patches).
SOURCE_VERSION=$1
SOURCE_SHA256=$2
# The bytes, and the compiler, linker and compressor that make them.
KERNEL_SHA256=$3
TOOLCHAIN=$(kernel_toolchain)
EOF
}

# accept_kernel [VERSION]: new pins from what a mirror has now. They are written when the kernel is
# built, never before.
accept_kernel() (
    need kernel gcc ld gzip xz make bc flex bison patch dpkg-deb
    take_lock kernel
    new_folder kernel
    version=${1:-} released=$KERNEL_PINS
    if [[ -z $version ]]; then
        open_archive "${KERNEL_SUITES[@]}"
        version=$(versions_of "$KERNEL_PACKAGE" binary | tail -n 1)
        [[ -n $version ]] || fail "no mirror of this machine has $KERNEL_PACKAGE"
    fi
    download_source "$version"
    KERNEL_PINS=$WORK/pins
    write_pins "$version" "$(sha256_of "$DOWNLOADED")" ""
    kernel_source "$DOWNLOADED"
    say "building the kernel $version"
    compile_kernel "$WORK/linux" "$WORK/out"
    sha256=$(pin SOURCE_SHA256)
    write_pins "$version" "$sha256" "$(sha256_of "$WORK/out/bzImage")"
    diff "$released" "$KERNEL_PINS" ||
        say "every image has new measurements; review and commit $KERNEL_PINS_SHOWN"
    target=$(kernel_folder)
    cp "$KERNEL_PINS" "$released.new"
    mv "$released.new" "$released"
    rm -rf "$target"
    finish "$WORK/out" "$target"
)

# Two builds that share nothing but the source, in folders of different length and depth.
verify_kernel() (
    need kernel gcc ld gzip xz make bc flex bison patch dpkg-deb
    take_lock verify
    new_folder verify
    begin=$SECONDS
    kernel_source ""
    compile_kernel "$WORK/a" "$WORK/first"
    rm -rf "$WORK/a"
    JOBS=$(($(nproc) + 1)) compile_kernel "$WORK/another/folder/of/the/second/build" "$WORK/second"
    sha256sum "$WORK"/{first,second}/bzImage >&2
    cmp "$WORK/first/bzImage" "$WORK/second/bzImage" || fail "two builds of the kernel differ"
    cmp "$WORK/first/config" "$WORK/second/config" || fail "two configurations of the kernel differ"
    check_kernel "$WORK/first/bzImage"
    say "two builds of the kernel are the same, $(stat -c %s "$WORK/first/bzImage") bytes ($((SECONDS - begin)) s)"
)
