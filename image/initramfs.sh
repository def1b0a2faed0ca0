# The initramfs: busybox, the modules that find a root, and initramfs/init. Sourced by image/build.
# shellcheck shell=bash disable=SC2154

# initramfs KERNEL OUTPUT
initramfs() {
    local kernel=$1 output=$2 dir version applet file
    version=$(ls "$kernel/lib/modules")
    dir=$(mktemp -d)
    mkdir -p "$dir"/{bin,dev,proc,sys,run,sysroot,lib/modules}
    cp "$(command -v busybox)" "$dir/bin/busybox"
    for applet in sh mount umount mkdir cat cut tr echo printf sleep cp mv rm cmp sync insmod findfs chroot switch_root \
        reboot timeout ls dmesg sed grep; do
        ln -s busybox "$dir/bin/$applet"
    done
    # In the order in which they depend on each other; what is built in needs no file.
    # shellcheck disable=SC2013
    for module in $(grep -v '^#' "$tree/image/initramfs/modules"); do
        modprobe -d "$kernel" -S "$version" --show-depends "$module" >>"$dir/needed" || die "the kernel has no $module"
    done
    sed -n 's/^insmod \([^ ]*\).*/\1/p' "$dir/needed" | awk '!seen[$0]++' | while read -r file; do
        cp "$file" "$dir/lib/modules/"
        basename "$file" >>"$dir/lib/modules/order"
    done
    rm "$dir/needed"
    install -m 755 "$tree/image/initramfs/init" "$dir/init"
    one_time "$dir"
    (cd "$dir" && find . -print0 | sort -z | cpio -o0 -H newc -R 0:0 --reproducible --quiet) | zstd -q -9 -T1 -f -o "$output"
    rm -rf "$dir"
}
