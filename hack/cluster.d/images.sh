# shellcheck shell=bash
# Images: OCI archives into the containerd of every node. There is no registry.

pause_up() {
    gcc -static -Os -Wall -Wextra -Werror -s -o "$STATE/pause.new" "$PARTS/pause.c" ||
        fail "pause.c does not build; is libc6-dev installed?"
    mv "$STATE/pause.new" "$STATE/pause"
}

pause_image_up() {
    "$PARTS/oci-archive" "$STATE/pause" "$PAUSE_IMAGE" "$STATE/pause.tar"
    load_images "$STATE/pause.tar"
}

# load_images ARCHIVE...: through standard input, because a node sees other mounts than we do.
load_images() {
    local archive node
    (($#)) || fail "load-images: name at least one OCI archive"
    for archive in "$@"; do
        [[ -r $archive ]] || fail "load-images: cannot read $archive"
        for node in "${NODES[@]}"; do
            node_ctr "$node" images import - <"$archive" \
                >"$STATE/log/import.log" 2>&1 || {
                show_log import
                fail "load-images: $node does not take $archive; is it an OCI archive?"
            }
        done
    done
}
