# A disk that is installed already, made by the installer itself on a file. Sourced by image/build.
# shellcheck shell=bash disable=SC2154

# disk ROOT SQUASHFS OUTPUT
disk() {
    local root=$1 squashfs=$2 output=$3
    rm -f "$output"
    truncate -s "${C3OS_DISK_SIZE:-4G}" "$output"
    # With the one clock, every id on the disk and every time in its file systems is the same at every build.
    E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH "$root/usr/bin/c3os" install --root "$root" --image "$squashfs" --device "$output" --no-config --yes
}
