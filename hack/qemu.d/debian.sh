# shellcheck shell=bash
# Packages of Debian releases other than the machine's own, from the machine's own mirrors. No host
# is named here: apt says what its sources are, in whichever format they are written.

# debian_uris KIND: the mirrors that serve Debian's releases (archive) or security updates
# (security), as apt would ask them. Other repositories have other suites or no `main`.
debian_uris() {
    local pattern='bookworm|trixie|forky|stable|oldstable|testing|unstable|sid'
    [[ $1 == archive ]] || pattern="($pattern)-security"
    apt-get update --print-uris |
        sed -nE "s#^'([^']*[^'/])/+dists/($pattern)/main/binary-[^']*'.*#\\1#p" | sort -u
}

# open_archive SUITE...: sets APT to options of an apt of its own, below WORK, that knows these
# suites, binaries and sources.
open_archive() {
    local folder=$WORK/apt suite uris keyring
    need kernel apt-get
    for keyring in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
        [[ ! -e $keyring ]] || break
    done
    [[ -e $keyring ]] || fail "no Debian keyring; install debian-archive-keyring"
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
    for suite in "$@"; do
        case $suite in
        *-security) uris=$(debian_uris security) ;;
        *) uris=$(debian_uris archive) ;;
        esac
        [[ -n $uris ]] || continue
        printf 'Types: deb deb-src\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n\n' \
            "${uris//$'\n'/ }" "$suite" "$keyring"
    done >"$folder/debian.sources"
    [[ -s $folder/debian.sources ]] ||
        fail "apt's sources on this machine name no Debian mirror; this works on Debian"
    APT=(-o "Dir::Etc::SourceList=$folder/debian.sources" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$folder/lists" -o "Dir::Cache=$folder/cache"
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
        -o APT::Sandbox::User=root)
    # A suite that a mirror does not serve is no failure: what is asked of it will not be found.
    apt-get "${APT[@]}" -qq update >"$folder/update.log" 2>&1 ||
        say "some of $* cannot be had: $(grep -m 1 '^[EW]:' "$folder/update.log")"
}

# versions_of PACKAGE binary|source: one a line, the newest last.
versions_of() {
    local kind='Packages$'
    [[ $2 == binary ]] || kind='Sources$'
    apt-cache "${APT[@]}" madison "$1" 2>/dev/null |
        awk -F ' *[|] *' -v kind="$kind" '$3 ~ kind { gsub(/ /, "", $2); print $2 }' | sort --version-sort --unique
}
