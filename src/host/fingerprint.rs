//! What this machine's hardware tells of itself, for [`Fingerprint`].

use std::{fs, path::PathBuf};

use super::Root;
use crate::identity::{Fingerprint, Hardware};

/// Looks at this machine.
pub(super) fn fingerprint(root: &Root) -> Fingerprint {
    let text = |path: PathBuf| fs::read_to_string(path).ok();
    let of_machine = |paths: &[&str]| paths.iter().filter_map(|path| text(root.path(path))).collect();
    let each = |directory: &str, file: fn(PathBuf) -> Option<PathBuf>| {
        let entries = fs::read_dir(root.path(directory)).into_iter().flatten().flatten();
        entries.filter_map(|entry| text(file(entry.path())?)).collect::<Vec<_>>()
    };
    let mut disks = each("/sys/block", |disk| Some(disk.join("device/wwid")));
    disks.extend(each("/sys/block", |disk| Some(disk.join("wwid"))));
    Fingerprint::of(&Hardware {
        product_uuids: of_machine(&["/sys/class/dmi/id/product_uuid"]),
        boards: of_machine(&[
            "/sys/class/dmi/id/board_serial",
            "/sys/firmware/devicetree/base/serial-number",
        ]),
        disks,
        // Bridges, tunnels and the like make their addresses up.
        cards: each("/sys/class/net", |card| card.join("device").exists().then(|| card.join("address"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Likeness;

    fn machine(files: &[(&str, &str)]) -> Fingerprint {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        for (path, text) in files {
            let path = root.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fingerprint(&root)
    }

    #[test]
    fn every_part_of_the_hardware_is_read_where_the_kernel_shows_it() {
        let files = [
            ("/sys/class/dmi/id/product_uuid", "4C4C4544-0042-3510-8058-B7C04F4E3732\n"),
            ("/sys/firmware/devicetree/base/serial-number", "1000000012345abc\0"),
            ("/sys/block/nvme0n1/wwid", "eui.0025385b71b0a2f1\n"),
            ("/sys/block/sda/device/wwid", "naa.5000c500a1b2c3d4\n"),
        ];
        let all = machine(&files);
        for file in files {
            assert_eq!(machine(&[file]).likeness(&all), Likeness::Same, "{}", file.0);
        }
        let card =
            |address| [("/sys/class/net/eth0/address", address), ("/sys/class/net/eth0/device/vendor", "x")];
        let one = machine(&card("52:54:00:aa:bb:01\n"));
        assert_eq!(one.likeness(&machine(&card("52:54:00:aa:bb:01\n"))), Likeness::Same);
        assert_eq!(one.likeness(&machine(&card("52:54:00:aa:bb:02\n"))), Likeness::Different);
        let made_up = machine(&[("/sys/class/net/veth0/address", "1a:2b:3c:4d:5e:6f")]);
        assert_eq!(made_up, Fingerprint::default());
    }
}
