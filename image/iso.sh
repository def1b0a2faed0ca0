# The medium: one hybrid image for BIOS and UEFI, CD and USB stick. Sourced by image/build.
# shellcheck shell=bash disable=SC2154

# iso ROOT SQUASHFS OUTPUT
iso() {
    local root=$1 squashfs=$2 output=$3 dir date
    rm -f "$output"
    dir=$(mktemp -d)
    mkdir -p "$dir/medium/boot/grub" "$dir/loaders"
    cp "$root/boot/vmlinuz" "$root/boot/initrd" "$dir/medium/boot/"
    cp "$squashfs" "$dir/medium/rootfs.squashfs"
    {
        grub_header
        echo 'set timeout=3'
        echo 'set default=live'
        entry live COS_LIVE live
    } >"$dir/medium/grub.cfg"
    loaders "$dir/loaders" 'search --no-floppy --set=at --label COS_LIVE'
    cat "$grub"/i386-pc/cdboot.img "$dir/loaders/core.img" >"$dir/medium/boot/grub/bios.img"
    efi_partition "$dir/loaders" "$dir/medium/boot/grub/efi.img"
    one_time "$dir/medium"
    date=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S00)
    xorriso -as mkisofs -quiet -o "$output" -V COS_LIVE -R -J --modification-date="$date" \
        -b boot/grub/bios.img -no-emul-boot -boot-load-size 4 -boot-info-table --grub2-boot-info \
        --grub2-mbr "$grub"/i386-pc/boot_hybrid.img \
        -eltorito-alt-boot -e --interval:appended_partition_2:all:: -no-emul-boot \
        -append_partition 2 0xef "$dir/medium/boot/grub/efi.img" -appended_part_as_gpt \
        --gpt_disk_guid "$(guid "$SOURCE_DATE_EPOCH")" "$dir/medium"
    rm -rf "$dir"
}

# efi_partition LOADERS OUTPUT
efi_partition() {
    one_time "$1"
    truncate -s 4M "$2"
    mkfs.vfat -n COS_EFI -i "$(guid efi | cut -c1-8)" --invariant "$2"
    mmd -i "$2" ::EFI ::EFI/BOOT
    mcopy -m -i "$2" "$1/BOOTX64.EFI" ::EFI/BOOT/BOOTX64.EFI
}

# guid SEED: the same for the same seed.
guid() {
    sha256sum <<<"$1" | sed -E 's/^(.{8})(.{4}).(.{3}).(.{3})(.{12}).*/\1-\2-4\3-8\4-\5/'
}
