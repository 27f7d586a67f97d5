#!/bin/bash
# A module of dracut: puts what opens encrypted volumes with keys from a key broker into the initramfs. See docs/disks.md.
# shellcheck disable=SC2154 # dracut sets the variables

config=/etc/confidential-containers/unlock.toml

program() {
    local program
    for program in /usr/local/bin/initrd-unlock /usr/bin/initrd-unlock; do
        [[ -x ${dracutsysrootdir-}$program ]] && echo "$program" && return
    done
    return 1
}

# Only where the machine is configured for it, and on request.
check() {
    [[ -e ${dracutsysrootdir-}$config ]] || return 255
    require_binaries cryptsetup || return 1
    program >/dev/null && return 0
    derror "confidential-unlock: initrd-unlock is not installed"
    return 1
}

depends() {
    echo dracut-systemd dm network
}

installkernel() {
    # Whatever the machine that makes the initramfs has. What a kernel does not have as a module is left out.
    hostonly='' instmods dm_crypt dm_integrity xts aes_generic aesni_intel authenc authencesn hmac sha256_generic algif_skcipher
    hostonly='' instmods configfs efivarfs tsm sev-guest tdx-guest vmw_vsock_virtio_transport =drivers/char/tpm
    hostonly='' instmods virtio_pci virtio_blk virtio_scsi virtio_net virtio_rng sd_mod nvme hv_vmbus hv_storvsc hv_netvsc ena gve
}

# DHCP where nothing else is said, with systemd-networkd too: dracut 059 has no network for it without `ip=`.
default_network() {
    local folder=/etc/systemd/network file
    dracut_module_included systemd-networkd || return 0
    for file in "$initdir"{/usr/lib,/etc}/systemd/network/*dracut*.network; do
        [[ ! -e $file ]] || return 0
    done
    mkdir -p "$initdir$folder"
    printf '[Match]\nType=ether\n\n[Network]\nDHCP=yes\n' >"$initdir$folder/zzzz-confidential-unlock.network"
}

install() {
    if [[ ! -e ${dracutsysrootdir-}$config ]]; then
        dfatal "confidential-unlock: there is no $config"
        return 1
    fi
    if dracut_module_included crypt || dracut_module_included systemd-cryptsetup; then
        dwarn "confidential-unlock: the modules crypt and systemd-cryptsetup may open volumes by the header on the disk; omit them"
    fi
    inst "$(program)" /usr/bin/initrd-unlock
    inst_multiple cryptsetup modprobe mount mkdir ln
    # Loaded when a thread of cryptsetup ends (Argon2).
    inst_libdir_file 'libgcc_s.so*'
    inst_simple "$config"
    inst_simple "$moddir/confidential-unlock.service" "$systemdsystemunitdir/confidential-unlock.service"
    $SYSTEMCTL -q --root "$initdir" add-wants initrd-root-device.target confidential-unlock.service
    default_network
    # Generators that follow what the host writes: EFI variables (an image of memory to resume from), credentials, types of partitions.
    local generator
    mkdir -p "$initdir/etc/systemd/system-generators" "$initdir/etc/systemd/system"
    for generator in hibernate-resume debug gpt-auto; do
        ln -sfn /dev/null "$initdir/etc/systemd/system-generators/systemd-$generator-generator"
    done
    ln -sfn /dev/null "$initdir/etc/systemd/system/systemd-hibernate-resume.service"
    # Nobody gets a shell at a console that belongs to the host, and nobody is asked anything there: also before the volumes are opened.
    local unit
    for unit in emergency dracut-emergency rescue debug-shell; do
        inst_simple "$moddir/no-shell.service" "/etc/systemd/system/$unit.service"
    done
    # dracut makes another unit want this one, which a mask would not let it.
    mkdir -p "$initdir/etc/systemd/system/dracut-cmdline-ask.service.d"
    printf '[Unit]\nConditionPathExists=!/etc/initrd-release\n' >"$initdir/etc/systemd/system/dracut-cmdline-ask.service.d/never.conf"
    mkdir -p "$initdir/etc/cmdline.d"
    echo 'rd.neednet=1 rd.shell=0 rd.emergency=poweroff' >"$initdir/etc/cmdline.d/90-confidential-unlock.conf"
}
