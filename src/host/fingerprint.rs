//! Is this still the machine that the identity was made on? A disk image that was copied to a second machine would
//! otherwise give two machines one identity.

use std::{collections::BTreeSet, fs};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Root, state::hex};

/// What can be told of the hardware, hashed. Every part may be missing: many machines have no serial number.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The firmware's system UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    product: Option<String>,
    /// The board's serial number, where there is no such firmware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    /// Addresses of network cards.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    cards: BTreeSet<String>,
}

/// What two fingerprints say together.
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
    /// Looks at this machine.
    pub fn of(root: &Root) -> Self {
        let text = |path: &str| {
            fs::read_to_string(root.path(path))
                .ok()
                .map(|text| text.trim_matches(['\0', '\n', ' ']).to_lowercase())
        };
        let told = |text: Option<String>| text.filter(|text| is_telling(text)).map(|text| hashed(&text));
        Self {
            product: told(text("/sys/class/dmi/id/product_uuid")),
            serial: told(text("/sys/firmware/devicetree/base/serial-number")),
            cards: cards(root),
        }
    }

    /// Whether `self`, seen now, is the machine that `then` was taken of. A changed card or a new board alone is no
    /// other machine: one part that agrees is enough.
    pub fn likeness(&self, then: &Self) -> Likeness {
        let pairs = [(&self.product, &then.product), (&self.serial, &then.serial)];
        let mut comparable = pairs.iter().any(|(now, then)| now.is_some() && then.is_some());
        let mut same = pairs.iter().any(|(now, then)| now.is_some() && now == then);
        if !self.cards.is_empty() && !then.cards.is_empty() {
            comparable = true;
            same |= !self.cards.is_disjoint(&then.cards);
        }
        match (same, comparable) {
            (true, _) => Likeness::Same,
            (false, true) => Likeness::Different,
            (false, false) => Likeness::Unknown,
        }
    }
}

/// Values that firmware ships unset are the same on thousands of machines.
fn is_telling(text: &str) -> bool {
    let digits: BTreeSet<char> = text.chars().filter(char::is_ascii_alphanumeric).collect();
    // This one is AMI's default, seen on boards of many makers.
    digits.len() > 2 && !text.starts_with("03000200-0400-0500-0006") && !text.contains("not ")
}

/// Addresses of cards that are hardware; bridges, tunnels and the like make theirs up.
fn cards(root: &Root) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(root.path("/sys/class/net")) else {
        return BTreeSet::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| fs::read_to_string(entry.path().join("address")).ok())
        .map(|address| address.trim().to_lowercase())
        .filter(|address| is_telling(address))
        .map(|address| hashed(&address))
        .collect()
}

/// Half a hash is enough to compare, and tells nobody a serial number.
fn hashed(text: &str) -> String {
    hex(&Sha256::digest(format!("c3os fingerprint {text}"))[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(product: Option<&str>, cards: &[&str]) -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        let put = |path: String, text: &str| {
            let path = root.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        if let Some(product) = product {
            put("/sys/class/dmi/id/product_uuid".to_owned(), product);
        }
        for (index, address) in cards.iter().enumerate() {
            put(format!("/sys/class/net/eth{index}/address"), address);
            put(format!("/sys/class/net/eth{index}/device/vendor"), "0x1af4");
            put(format!("/sys/class/net/veth{index}/address"), "1a:2b:3c:4d:5e:6f");
        }
        (directory, root)
    }

    fn of(product: Option<&str>, cards: &[&str]) -> Fingerprint {
        Fingerprint::of(&machine(product, cards).1)
    }

    #[test]
    fn a_copied_disk_is_told_from_a_repaired_machine() {
        let here = of(Some("4C4C4544-0042-3510-8058-B7C04F4E3732\n"), &["52:54:00:aa:bb:01\n"]);
        let copy = of(Some("9d1f3c40-1111-4242-8058-B7C04F4E3732"), &["52:54:00:aa:bb:02"]);
        let new_card = of(Some("4c4c4544-0042-3510-8058-b7c04f4e3732"), &["52:54:00:aa:bb:09"]);
        let new_board = of(Some("9d1f3c40-1111-4242-8058-B7C04F4E3732"), &["52:54:00:aa:bb:01"]);
        assert_eq!(copy.likeness(&here), Likeness::Different);
        assert_eq!(new_card.likeness(&here), Likeness::Same);
        assert_eq!(new_board.likeness(&here), Likeness::Same);
        assert_eq!(here.likeness(&here), Likeness::Same);
    }

    #[test]
    fn a_machine_that_tells_nothing_is_never_taken_for_a_copy() {
        let here = of(Some("4c4c4544-0042-3510-8058-b7c04f4e3732"), &[]);
        for unset in [
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "Not Settable",
            "03000200-0400-0500-0006-000700080009",
            "",
        ] {
            assert_eq!(of(Some(unset), &[]).likeness(&here), Likeness::Unknown, "{unset}");
        }
        assert_eq!(of(None, &[]).likeness(&Fingerprint::default()), Likeness::Unknown);
    }
}
