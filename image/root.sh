# The root tree: Debian's packages (kept), and on them our binary, the overlay, the stage runner. Sourced by image/build.
# shellcheck shell=bash disable=SC2154

suite=bookworm

# What is not needed in an image that nobody installs packages on.
spare=(usr/share/doc usr/share/man usr/share/info usr/share/locale usr/share/lintian usr/share/bash-completion
    var/cache/apt var/lib/apt/lists var/log)

# Prints the directory of Debian's part, which depends on the list of packages alone.
debian_root() {
    local packages
    packages=$(grep -v '^#' "$tree/image/packages" | paste -sd,)
    kept "root-$suite-$(sha256sum <<<"$packages" | cut -c1-12)" debootstrap_root "$packages"
}

debootstrap_root() {
    local packages=$1 dir=$2 path
    # debootstrap makes device nodes, and runs the packages' scripts. DEBIAN_MIRROR: another mirror than its own.
    [ "$(id -u)" = 0 ] || die "only root can lay out Debian's packages"
    debootstrap --variant=minbase --include="$packages" "$suite" "$dir" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
    for path in "${spare[@]}"; do
        find "$dir/$path" -mindepth 1 -delete
    done
}

# Prints the directory of the kernel: boot/vmlinuz-VERSION, lib/modules/VERSION.
kernel() {
    local package
    package=$(apt-cache depends linux-image-amd64 | sed -n 's/ *Depends: //p' | head -1)
    [ -n "$package" ] || die "apt knows no linux-image-amd64; run apt-get update"
    kept "$package" unpacked_kernel "$package"
}

unpacked_kernel() {
    unpacked "$2" "$1"
    depmod -b "$2" "$(ls "$2/lib/modules")"
}

# root_tree DIR BINARY RUNNER: the whole tree, new.
root_tree() {
    local dir=$1 binary=$2 runner=$3 debian kernel version path
    debian=$(debian_root)
    kernel=$(kernel)
    version=$(ls "$kernel/lib/modules")
    rm -rf "$dir"
    cp -a "$debian" "$dir"
    cp -a "$kernel/lib/modules/." "$dir/usr/lib/modules/"
    install -Dm 644 "$kernel/boot/vmlinuz-$version" "$dir/boot/vmlinuz"
    install -m 755 "$binary" "$dir/usr/bin/c3os"
    install -m 755 "$runner" "$dir/usr/bin/yip"
    cp -r --no-preserve=ownership "$tree/overlay/files/." "$dir/"
    cp -r --no-preserve=ownership "$tree/image/files/." "$dir/"
    mkdir -p "$dir/oem" "$dir/usr/local" "$dir/run/cidata"
    # Filled at the first boot; clones would share it otherwise.
    : >"$dir/etc/machine-id"
    rm -f "$dir/var/lib/dbus/machine-id" "$dir/etc/hostname"
    ln -sfn ../run/systemd/resolve/stub-resolv.conf "$dir/etc/resolv.conf"
    # Timers that look after a system that changes; this one does not.
    for path in apt-daily apt-daily-upgrade dpkg-db-backup e2scrub_all fstrim; do
        ln -sf /dev/null "$dir/etc/systemd/system/$path.timer"
    done
    for path in systemd-firstboot e2scrub_reap; do
        ln -sf /dev/null "$dir/etc/systemd/system/$path.service"
    done
    # What the stages of a boot are run by, and the network without a word of configuration.
    for path in stage-boot stage-network c3os-install; do
        link_unit "$dir" multi-user.target "$path.service" /usr/lib/systemd/system
    done
    link_unit "$dir" sysinit.target stage-fs.service /usr/lib/systemd/system
    link_unit "$dir" multi-user.target systemd-networkd.service /lib/systemd/system
    link_unit "$dir" network-online.target systemd-networkd-wait-online.service /lib/systemd/system
    printf 'NAME="c3os"\nID=c3os\nID_LIKE=debian\nPRETTY_NAME="c3os mesh on Debian %s"\n' "$suite" >"$dir/etc/os-release"
}

# link_unit ROOT TARGET UNIT FROM: what `systemctl enable` would do.
link_unit() {
    mkdir -p "$1/etc/systemd/system/$2.wants"
    ln -sf "$4/$3" "$1/etc/systemd/system/$2.wants/$3"
}
