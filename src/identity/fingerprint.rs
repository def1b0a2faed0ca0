//! Is this still the machine that the identity was made on?
//!
//! A disk image that was copied to a second machine would give two machines one identity, so an identity found on
//! another machine is set aside and a new one made. A repaired machine must keep its own, and so must a disk that
//! was moved into a new one: hence **one part that agrees is enough**.
//!
//! | seen now, compared with what was seen then | verdict | the identity |
//! | --- | --- | --- |
//! | any part has something in common | [`Likeness::Same`] | stays; what is seen now is kept for the next time |
//! | some part tells something both times, none has anything in common | [`Likeness::Different`] | is set aside |
//! | no part tells something both times | [`Likeness::Unknown`] | stays; what was seen then is kept |
//!
//! Only what belongs to the hardware counts. `/etc/machine-id`, host names and file system ids do not: they are
//! copied with the image, and change on a machine whose `/etc` is made anew at every boot. For the same reason a disk
//! counts only by a name that a drive was born with: a virtual disk's is often copied with its file.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What can be told of the hardware, as it was read: text with any white space, in any case. Empty where there is none.
#[derive(Debug, Clone, Default)]
pub struct Hardware {
    /// The firmware's system UUID (`/sys/class/dmi/id/product_uuid`).
    pub product_uuids: Vec<String>,
    /// Serial numbers of the board (`/sys/class/dmi/id/board_serial`, `/sys/firmware/devicetree/base/serial-number`).
    pub boards: Vec<String>,
    /// World wide names of disks (`/sys/block/*/device/wwid`, `/sys/block/nvme*/wwid`).
    pub disks: Vec<String>,
    /// Addresses of network cards that are hardware (`/sys/class/net/*/address` beside a `device`).
    pub cards: Vec<String>,
}

/// The same, hashed: it goes to disk and into bug reports, and tells nobody a serial number.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Fingerprint {
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    product: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    board: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    disk: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    card: BTreeSet<String>,
}

/// What two fingerprints say together; see the front of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// They share something.
    Same,
    /// They can be compared, and share nothing.
    Different,
    /// Nothing to compare.
    Unknown,
}

impl Fingerprint {
    /// Takes what was read from a machine. Values that makers leave unset, the same on thousands of machines, are
    /// left out.
    pub fn of(hardware: &Hardware) -> Self {
        let part = |kind: &str, texts: &[String]| {
            let texts = texts.iter().map(|text| text.trim_matches(|c: char| c == '\0' || c.is_whitespace()));
            texts
                .map(str::to_lowercase)
                .filter(|text| is_telling(text))
                .map(|text| hashed(kind, &text))
                .collect()
        };
        Self {
            product: part("product", &hardware.product_uuids),
            board: part("board", &hardware.boards),
            disk: part("disk", &born_with(&hardware.disks)),
            card: part("card", &hardware.cards),
        }
    }

    /// Whether `self`, seen now, is the machine that `then` was taken of.
    #[must_use]
    pub fn likeness(&self, then: &Self) -> Likeness {
        let parts = [
            (&self.product, &then.product),
            (&self.board, &then.board),
            (&self.disk, &then.disk),
            (&self.card, &then.card),
        ];
        let mut comparable =
            parts.iter().filter(|(now, then)| !now.is_empty() && !then.is_empty()).peekable();
        if comparable.peek().is_none() {
            Likeness::Unknown
        } else if comparable.all(|(now, then)| now.is_disjoint(then)) {
            Likeness::Different
        } else {
            Likeness::Same
        }
    }
}

/// Names that the maker of a real drive registered: `naa.5` (SAS, SATA) and `eui.` (NVMe). Arrays and hypervisors use
/// `naa.6`, `t10.` and `nvme.`; VMware's block of `eui.` is its card maker's number.
fn born_with(names: &[String]) -> Vec<String> {
    let names = names.iter().map(|name| name.trim().to_lowercase());
    names
        .filter(|name| name.starts_with("naa.5") || name.starts_with("eui."))
        .filter(|name| !["000c29", "005056"].iter().any(|vmware| name.contains(vmware)))
        .collect()
}

/// Placeholders seen in the field, in lower case: a common firmware's UUID, words instead of a number.
const PLACEHOLDERS: [&str; 8] = [
    "03000200-0400-0500-0006",
    "not ",
    "none",
    "default string",
    "to be filled",
    "o.e.m.",
    "system serial",
    "123456789",
];

/// At least three different letters or digits, and no placeholder: all zeros or all ones tell nothing.
fn is_telling(text: &str) -> bool {
    let different: BTreeSet<char> = text.chars().filter(char::is_ascii_alphanumeric).collect();
    different.len() > 2 && !PLACEHOLDERS.iter().any(|placeholder| text.contains(placeholder))
}

/// Half a hash is enough to compare.
fn hashed(kind: &str, text: &str) -> String {
    let hash = Sha256::digest(format!("c3os fingerprint {kind} {text}"));
    hash[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Fingerprint, Hardware, Likeness};

    fn of(product: &str, board: &str, disk: &str, cards: &[&str]) -> Fingerprint {
        let one = |text: &str| vec![text.to_owned()];
        Fingerprint::of(&Hardware {
            product_uuids: one(product),
            boards: one(board),
            disks: one(disk),
            cards: cards.iter().map(|card| (*card).to_owned()).collect(),
        })
    }

    const UUID: &str = "4c4c4544-0042-3510-8058-b7c04f4e3732";
    const OTHER_UUID: &str = "9d1f3c40-1111-4242-8058-b7c04f4e3732";
    const DISK: &str = "naa.5000c500a1b2c3d4";
    const OTHER_DISK: &str = "eui.0025385b71b0a2f1";

    #[test]
    fn a_copied_image_is_told_from_a_repaired_machine_and_a_moved_disk() {
        let then = of(UUID, "ABC-1", DISK, &["52:54:00:aa:bb:01", "52:54:00:aa:bb:02"]);
        let copy = of(OTHER_UUID, "ABC-2", OTHER_DISK, &["52:54:00:aa:bb:03"]);
        let new_card = of(UUID, "ABC-1", DISK, &["52:54:00:aa:bb:09"]);
        let new_board = of(OTHER_UUID, "ABC-7", DISK, &["52:54:00:aa:bb:02"]);
        let moved_disk = of(OTHER_UUID, "ABC-2", DISK, &["52:54:00:aa:bb:03"]);
        let restored_to_a_new_disk = of(UUID, "ABC-1", OTHER_DISK, &[]);
        assert_eq!(copy.likeness(&then), Likeness::Different);
        for same in [&new_card, &new_board, &moved_disk, &restored_to_a_new_disk, &then] {
            assert_eq!(same.likeness(&then), Likeness::Same);
        }
    }

    #[test]
    fn what_makers_leave_unset_tells_nothing() {
        let nothing = Fingerprint::default();
        for unset in [
            "",
            "\0\n",
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "Not Settable",
            "Not Specified",
            "03000200-0400-0500-0006-000700080009",
            "Default string",
            "To be filled by O.E.M.",
            "System Serial Number",
            "0123456789",
            "None",
        ] {
            assert_eq!(of(unset, unset, unset, &[unset]), nothing, "{unset}");
        }
        assert_eq!(nothing.likeness(&nothing), Likeness::Unknown);
    }

    #[test]
    fn a_virtual_disk_whose_name_was_copied_with_its_file_tells_nothing() {
        for name in [
            "naa.60022480a1b2c3d4e5f60718293a4b5c",
            "naa.6000c29a1b2c3d4e5f60718293a4b5c6",
            "t10.ATA QEMU HARDDISK QM00001",
            "0QEMU QEMU HARDDISK drive-scsi0",
            "nvme.1b36-6465616462656566-51454d55204e564d65204374726c-00000001",
            "eui.c2f4e1b9a7000c296b3d5f7a91824cde",
        ] {
            assert_eq!(of("", "", name, &[]), Fingerprint::default(), "{name}");
        }
    }

    #[test]
    fn the_same_text_in_another_part_is_no_agreement() {
        assert_eq!(of("", "x-1-2-3", "", &[]).likeness(&of("x-1-2-3", "", "", &[])), Likeness::Unknown);
        let (a, b) = (of("y-1-2-3", "x-1-2-3", "", &[]), of("x-1-2-3", "y-1-2-3", "", &[]));
        assert_eq!(a.likeness(&b), Likeness::Different);
    }

    #[test]
    fn case_blanks_and_the_end_of_a_device_tree_text_do_not_matter() {
        let (now, then) =
            (of(&format!(" {}\n", UUID.to_uppercase()), "A1b2\0", "", &[]), of(UUID, "a1B2", "", &[]));
        assert_eq!(now, then);
    }

    #[test]
    fn nothing_of_the_hardware_can_be_read_from_what_is_kept() {
        let kept = serde_json::to_string(&of(UUID, "ABC-1", DISK, &["52:54:00:aa:bb:01"])).unwrap();
        for secret in [UUID, "abc-1", "a1b2c3d4", "52:54"] {
            assert!(!kept.to_lowercase().contains(secret), "{kept}");
        }
    }

    proptest! {
        #[test]
        fn comparing_is_symmetric_and_survives_the_disk(
            a in prop::collection::vec("[a-f0-9]{0,6}", 4),
            b in prop::collection::vec("[a-f0-9]{0,6}", 4),
        ) {
            let make = |parts: &[String]| of(&parts[0], &parts[1], &format!("naa.5{}", parts[2]), &[&parts[3]]);
            let (a, b) = (make(&a), make(&b));
            prop_assert_eq!(a.likeness(&b), b.likeness(&a));
            prop_assert_ne!(a.likeness(&a), Likeness::Different);
            let kept: Fingerprint = serde_json::from_str(&serde_json::to_string(&a).unwrap()).unwrap();
            prop_assert_eq!(kept, a);
        }
    }
}
