//! What the overlay's stage files do outside of a boot of ours: the part that an immutable base's initramfs runs.

use anyhow::{Result, ensure};

use super::{Stage, refs};
use crate::cluster::Cluster;

/// The base's initramfs runs the stage with the system beside it, and mounts by what the stage leaves.
pub(super) fn layout(stage: &mut Stage) -> Result<()> {
    let names = stage.names();
    for node in refs(&names) {
        let run = "mkdir -p /run/cos && mount --rbind / /sysroot && \
                   printf 'PERSISTENT_STATE_PATHS=\"/etc/ssh\"\n' >/run/cos/cos-layout.env && \
                   for time in 1 2; do /usr/libexec/lab/run-stage rootfs; done; umount -l /sysroot; \
                   cat /run/cos/cos-layout.env";
        let layout = stage.lab.say(node, run)?;
        let wanted = "PERSISTENT_STATE_PATHS=\"/etc/ssh /var/lib/rancher /var/lib/kubelet\"";
        ensure!(layout.trim().ends_with(wanted), "{node}: {layout}");
    }
    Ok(())
}
