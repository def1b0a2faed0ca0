# The boot loader, for a medium and for a disk, BIOS and UEFI. Sourced by image/build.
# shellcheck shell=bash disable=SC2154,SC2016

grub=/usr/lib/grub
kernel_arguments="net.ifnames=0 console=tty0 console=ttyS0,115200"
grub_modules="part_gpt part_msdos fat ext2 iso9660 normal linux search search_label search_fs_file serial terminal echo test
    configfile loadenv all_video gfxterm"

# Shown on the screen and on a serial line.
grub_header() {
    cat <<'CFG'
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
CFG
}

# entry NAME LABEL MODE [ARGUMENT..]
entry() {
    local name=$1 label=$2 mode=$3
    shift 3
    cat <<CFG
menuentry "c3os, $name" --id $mode {
    search --no-floppy --set=root --label $label
    linux /boot/vmlinuz $kernel_arguments elemental.mode=$mode $*
    initrd /boot/initrd
}
CFG
}

# loaders DIR FINDS: DIR/boot.img, core.img (BIOS) and BOOTX64.EFI, which load /grub.cfg of what FINDS sets as `at`.
loaders() {
    local dir=$1 finds=$2 early=$1/early.cfg
    printf '%s\nconfigfile ($at)/grub.cfg\n' "$finds" >"$early"
    # shellcheck disable=SC2086
    grub-mkimage -O x86_64-efi -p /boot/grub -c "$early" -o "$dir/BOOTX64.EFI" $grub_modules
    # shellcheck disable=SC2086
    grub-mkimage -O i386-pc -p /boot/grub -c "$early" -o "$dir/core.img" biosdisk $grub_modules
    cp $grub/i386-pc/boot.img "$dir/boot.img"
    rm "$early"
}

# What a disk boots from lies in the root tree, so that `c3os install` needs nothing else.
disk_loaders() {
    local dir=$1
    mkdir -p "$dir"
    loaders "$dir" 'search --no-floppy --set=at --label COS_GRUB'
    {
        grub_header
        echo 'set timeout=3'
        echo 'set default=active'
        echo 'set fallback=recovery'
        entry active COS_STATE active
        entry "the image before" COS_STATE passive
        entry recovery COS_RECOVERY recovery
    } >"$dir/grub.cfg"
}
