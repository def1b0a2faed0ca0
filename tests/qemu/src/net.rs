//! The switch between the guests: a bridge in a network namespace of its own. Nothing goes in or out of it.

use anyhow::Result;

use crate::run::run;

/// Gone with its guests' cables when dropped.
pub struct Switch {
    name: String,
}

impl Switch {
    /// Makes it.
    pub fn new() -> Result<Self> {
        let name = format!("c3os-qemu-{}", std::process::id());
        run("ip", &["netns", "add", &name])?;
        let switch = Self { name };
        switch.ip(&["link", "set", "lo", "up"])?;
        switch.ip(&["link", "add", "lan", "type", "bridge", "mcast_snooping", "0"])?;
        switch.ip(&["link", "set", "lan", "up"])?;
        Ok(switch)
    }

    /// Name of the namespace, for `ip netns exec`.
    pub fn namespace(&self) -> &str {
        &self.name
    }

    /// Lays a cable for a guest.
    pub fn cable(&self, tap: &str) -> Result<()> {
        self.ip(&["tuntap", "add", "dev", tap, "mode", "tap"])?;
        self.ip(&["link", "set", tap, "master", "lan", "up"])
    }

    fn ip(&self, words: &[&str]) -> Result<()> {
        run("ip", &[&["-n", &self.name], words].concat()).map(drop)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Err(error) = run("ip", &["netns", "del", &self.name]) {
            eprintln!("qemu: {error:#}");
        }
    }
}
