//! Features of the kernel that the data plane uses where they are, and can do without, one by one.

use crate::{tun, tunnel::Offloads, udp};

/// Which features may be used. A kernel that lacks one is found out by trying; this is for kernels and network cards in
/// which one is there and broken, and for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// What the interface may use.
    pub tun: tun::Features,
    /// What the sockets may use.
    pub udp: udp::Features,
}

impl Features {
    /// The environment variable that [`Features::from_environment`] reads.
    pub const VARIABLE: &str = "C3OS_DATA_PLANE_WITHOUT";
    /// The names that it may hold.
    pub const NAMES: [&str; 7] = ["vnet", "multi-queue", "tso", "uso", "tunnel-gso", "gso", "gro"];

    /// All but those that `C3OS_DATA_PLANE_WITHOUT` names, with spaces in between. A name that there is not is told.
    pub fn from_environment() -> Self {
        let words = std::env::var(Self::VARIABLE).unwrap_or_default();
        words.split_whitespace().fold(Self::default(), |features, name| {
            features.without(name).unwrap_or_else(|| {
                let names = Self::NAMES.join(" ");
                tracing::warn!(
                    name,
                    "{} names no feature of the data plane; there are {names}",
                    Self::VARIABLE
                );
                features
            })
        })
    }

    /// The same without the feature `name`; none if there is no such feature.
    #[must_use]
    pub fn without(mut self, name: &str) -> Option<Self> {
        match name {
            "vnet" => self.tun.vnet = false,
            "multi-queue" => self.tun.multi_queue = false,
            "tso" => self.tun.offloads = Offloads::NONE,
            "uso" => self.tun.offloads = Offloads { udp: false, encapsulated: false, ..self.tun.offloads },
            "tunnel-gso" => self.tun.offloads.encapsulated = false,
            "gso" => self.udp.gso = false,
            "gro" => self.udp.gro = false,
            _ => return None,
        }
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_takes_something_away_and_others_are_none() {
        for name in Features::NAMES {
            assert_ne!(Features::default().without(name), Some(Features::default()), "{name}");
        }
        assert_eq!(Features::default().without("gzo"), None);
    }
}
