//! Settings that are one word: what each accepts, what it says to anything else, and its JSON schema.

use std::{borrow::Cow, net::IpAddr, net::Ipv4Addr, time::Duration};

use ipnet::Ipv4Net;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{
    LogLevel, NetworkId, RoleSetting, TokenText,
    block::{Refusal, Text},
    suggest::{closest, shown},
};
use crate::identity::NodeId;

/// A number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number<const MIN: u16, const MAX: u16>(pub(super) u16);

/// A file on this machine.
#[derive(Debug, Clone)]
pub(super) struct FilePath(pub(super) String);

/// The id of a founded cluster.
#[derive(Debug, Clone)]
pub(super) struct ClusterName(pub(super) String);

/// A peer to dial.
#[derive(Debug, Clone)]
pub(super) struct PeerAddress(pub(super) String);

/// A network interface.
#[derive(Debug, Clone)]
pub(super) struct InterfaceName(pub(super) String);

/// An IPv4 network; host bits are cut off.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subnet(pub(super) Ipv4Net);

/// An IPv4 address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address(pub(super) Ipv4Addr);

/// An IPv4 or IPv6 address on the LAN.
#[derive(Debug, Clone)]
pub(super) struct LanAddress(pub(super) IpAddr);

/// The MTU of the overlay interface; none: found out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mtu(pub(super) Option<u16>);

/// After how long; none: never.
#[derive(Debug, Clone, Copy)]
pub(super) struct After(pub(super) Option<Duration>);

/// A block device, or `auto`.
#[derive(Debug, Clone)]
pub(super) struct Device(pub(super) String);

/// One argument on a command line.
#[derive(Debug, Clone)]
pub(super) struct Argument(pub(super) String);

/// One of a few words. The first spelling of a value is the one to write.
fn one_of<T: Copy>(text: &str, noun: &str, words: &[(&str, T)]) -> Result<T, Refusal> {
    let lower = text.to_lowercase();
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == lower) {
        return Ok(*value);
    }
    let hint = match closest(&lower, words.iter().map(|(word, _)| *word)) {
        Some(word) => format!("did you mean `{word}`?"),
        None => {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            format!("one of {}", words.join(", "))
        }
    };
    Err(Refusal::new(format!("{} is not {noun}", shown(text)), hint))
}

impl Text for bool {
    const WHAT: &'static str = "true or false";

    /// The words of YAML 1.1 too, which the original's parser took.
    fn parse(text: &str) -> Result<Self, Refusal> {
        match text.to_lowercase().as_str() {
            "true" | "yes" | "on" | "y" | "t" | "1" => Ok(true),
            "false" | "no" | "off" | "n" | "f" | "0" => Ok(false),
            _ => {
                Err(Refusal::new(format!("{} is neither true nor false", shown(text)), "write true or false"))
            }
        }
    }
}

impl<const MIN: u16, const MAX: u16> Text for Number<MIN, MAX> {
    const WHAT: &'static str = "a number";

    fn parse(text: &str) -> Result<Self, Refusal> {
        let hint = || format!("a whole number from {MIN} to {MAX}");
        let number: i64 = text
            .parse()
            .map_err(|_| Refusal::new(format!("{} is not a whole number", shown(text)), hint()))?;
        match u16::try_from(number) {
            Ok(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            Ok(_) | Err(_) => Err(Refusal::new(format!("{number} is out of range"), hint())),
        }
    }
}

impl Text for TokenText {
    const WHAT: &'static str = "a text";
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, Refusal> {
        Ok(Self::new(text.to_owned()))
    }
}

impl Text for FilePath {
    const WHAT: &'static str = "the path of a file";

    fn parse(text: &str) -> Result<Self, Refusal> {
        if text.starts_with('/') && !text.contains('\0') {
            Ok(Self(text.to_owned()))
        } else {
            Err(Refusal::new("not the full path of a file", "a path from the root, such as /oem/token"))
        }
    }
}

impl Text for NetworkId {
    const WHAT: &'static str = "a name";

    fn parse(text: &str) -> Result<Self, Refusal> {
        text.parse().map_err(|_| {
            Refusal::new(
                format!("{} is not a network id", shown(text)),
                "1 to 32 characters of a-z, 0-9 and '-'; all machines of a cluster write the same",
            )
        })
    }
}

impl Text for RoleSetting {
    const WHAT: &'static str = "a role";

    fn parse(text: &str) -> Result<Self, Refusal> {
        one_of(
            text,
            "a role",
            &[
                ("master", Self::Master),
                ("worker", Self::Worker),
                ("auto", Self::Auto),
                ("none", Self::None),
                ("server", Self::Master),
                ("agent", Self::Worker),
            ],
        )
    }
}

impl Text for LogLevel {
    const WHAT: &'static str = "a log level";

    /// Those of the original that we lack are the nearest one.
    fn parse(text: &str) -> Result<Self, Refusal> {
        one_of(
            text,
            "a log level",
            &[
                ("error", Self::Error),
                ("warn", Self::Warn),
                ("info", Self::Info),
                ("debug", Self::Debug),
                ("trace", Self::Trace),
                ("warning", Self::Warn),
                ("dpanic", Self::Error),
                ("panic", Self::Error),
                ("fatal", Self::Error),
            ],
        )
    }
}

impl Text for NodeId {
    const WHAT: &'static str = "a node id";

    fn parse(text: &str) -> Result<Self, Refusal> {
        text.parse().map_err(|_| {
            Refusal::new(
                "not a node id",
                "the 52 characters that start with 12D3KooW, as `c3os peers` prints them",
            )
        })
    }
}

impl Text for ClusterName {
    const WHAT: &'static str = "a cluster id";

    fn parse(text: &str) -> Result<Self, Refusal> {
        if text.len() <= 128 && text.chars().all(|c| c.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Refusal::new("not a cluster id", "as `c3os cluster show` prints it"))
        }
    }
}

impl Text for PeerAddress {
    const WHAT: &'static str = "the address of a peer";

    /// A rough check of a multiaddress; the mesh does the full one.
    fn parse(text: &str) -> Result<Self, Refusal> {
        let mut parts = text.split('/');
        let lead = (parts.next(), parts.next(), parts.next());
        let fits = match lead {
            (Some(""), Some("ip4"), Some(ip)) => ip.parse::<Ipv4Addr>().is_ok(),
            (Some(""), Some("ip6"), Some(ip)) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
            (Some(""), Some("dns" | "dns4" | "dns6" | "dnsaddr"), Some(name)) => !name.is_empty(),
            _ => false,
        };
        if fits && text.len() <= 512 && text.chars().all(|c| c.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            let hint = match text.parse::<std::net::SocketAddr>() {
                Ok(socket) => {
                    let family = if socket.is_ipv4() { "ip4" } else { "ip6" };
                    format!("write /{family}/{}/tcp/{}", socket.ip(), socket.port())
                }
                Err(_) => "such as /ip4/192.0.2.1/tcp/4001 or /dnsaddr/mesh.example.org".to_owned(),
            };
            Err(Refusal::new(format!("{} is not a multiaddress", shown(text)), hint))
        }
    }
}

impl Text for InterfaceName {
    const WHAT: &'static str = "the name of a network interface";

    /// What Linux takes (net/core/dev.c, dev_valid_name).
    fn parse(text: &str) -> Result<Self, Refusal> {
        let hint = "1 to 15 characters, such as c3os0, without '/', ':' and spaces";
        if text.len() > 15 {
            return Err(Refusal::new(
                format!("{} is too long for a network interface: {} bytes", shown(text), text.len()),
                hint,
            ));
        }
        let refused = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
        if text == "." || text == ".." || text.contains(refused) {
            return Err(Refusal::new(format!("{} cannot name a network interface", shown(text)), hint));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Text for Subnet {
    const WHAT: &'static str = "a subnet";

    fn parse(text: &str) -> Result<Self, Refusal> {
        match text.parse::<Ipv4Net>() {
            Ok(net) => Ok(Self(net.trunc())),
            Err(_) => Err(Refusal::new(
                format!("{} is not an IPv4 subnet", shown(text)),
                "an address and the length of its prefix, such as 10.1.0.0/16",
            )),
        }
    }
}

impl Text for Address {
    const WHAT: &'static str = "an address";

    fn parse(text: &str) -> Result<Self, Refusal> {
        text.parse().map(Self).map_err(|_| {
            let hint = match text.parse::<Ipv4Net>() {
                Ok(net) => format!("write {}; the length of the prefix is vpn.subnet's", net.addr()),
                Err(_) => "four numbers, such as 10.1.0.7".to_owned(),
            };
            Refusal::new(format!("{} is not an IPv4 address", shown(text)), hint)
        })
    }
}

impl Text for LanAddress {
    const WHAT: &'static str = "an address";

    fn parse(text: &str) -> Result<Self, Refusal> {
        text.parse().map(Self).map_err(|_| {
            Refusal::new(
                format!("{} is not an IP address", shown(text)),
                "a free address of the LAN, such as 192.168.1.200, without a prefix length",
            )
        })
    }
}

impl Text for Mtu {
    const WHAT: &'static str = "auto or a number";

    fn parse(text: &str) -> Result<Self, Refusal> {
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Self(None));
        }
        match Number::<1280, 9000>::parse(text) {
            Ok(number) => Ok(Self(Some(number.0))),
            Err(refusal) => {
                Err(Refusal::new(refusal.message, "auto, or a number from 1280 (IPv6 needs as much) to 9000"))
            }
        }
    }
}

impl Text for After {
    const WHAT: &'static str = "never or a duration";

    fn parse(text: &str) -> Result<Self, Refusal> {
        let hint = "never, or a duration of 1m or more, such as 30m, 2h or 1h30m";
        if text.eq_ignore_ascii_case("never") {
            return Ok(Self(None));
        }
        match duration(text) {
            Some(after) if after >= Duration::from_secs(60) => Ok(Self(Some(after))),
            Some(_) => {
                Err(Refusal::new(format!("{} is too short: a reboot takes longer", shown(text)), hint))
            }
            None => Err(Refusal::new(format!("{} is not a duration", shown(text)), hint)),
        }
    }
}

/// `1h30m`, as Go writes durations, with `d` for days.
fn duration(text: &str) -> Option<Duration> {
    let mut seconds = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = rest.split_at(digits);
        let factor = match unit.chars().next()? {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return None,
        };
        seconds = seconds.checked_add(number.parse::<u64>().ok()?.checked_mul(factor)?)?;
        rest = &unit[1..];
    }
    // A hundred years: sums with it stay far from overflow.
    (seconds <= 3_153_600_000).then(|| Duration::from_secs(seconds))
}

impl Text for Device {
    const WHAT: &'static str = "a block device";

    fn parse(text: &str) -> Result<Self, Refusal> {
        if text == "auto" || (text.starts_with("/dev/") && text.chars().all(|c| c.is_ascii_graphic())) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Refusal::new(
                format!("{} is not a block device", shown(text)),
                "auto, or a path such as /dev/sda or /dev/disk/by-id/...",
            ))
        }
    }
}

impl Text for Argument {
    const WHAT: &'static str = "one argument";

    fn parse(text: &str) -> Result<Self, Refusal> {
        if text.contains(['\n', '\r', '\0']) {
            Err(Refusal::new(
                "an argument of more than one line",
                "one item per argument; a unit file has no place for a line break",
            ))
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

/// JSON schemas, each written where it stands.
macro_rules! schema {
    ($($kind:ty => $schema:tt)*) => { $(
        impl JsonSchema for $kind {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($kind).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )* };
}

schema! {
    TokenText => { "type": "string" }
    FilePath => { "type": "string", "pattern": "^(/.*)?$" }
    NetworkId => { "type": "string", "pattern": "^[a-z0-9-]{0,32}$" }
    RoleSetting => { "type": "string", "enum": ["auto", "master", "worker", "none", "server", "agent", ""] }
    LogLevel => {
        "type": "string",
        "enum": ["error", "warn", "info", "debug", "trace", "warning", "dpanic", "panic", "fatal", ""]
    }
    ClusterName => { "type": "string", "pattern": "^[!-~]{0,128}$" }
    PeerAddress => { "type": "string", "pattern": "^/(ip4|ip6|dns|dns4|dns6|dnsaddr)/.+$" }
    InterfaceName => { "type": "string", "pattern": "^[^/:%\\s]{0,15}$" }
    Subnet => { "type": "string", "pattern": "^([0-9]{1,3}(\\.[0-9]{1,3}){3}/[0-9]{1,2})?$" }
    Address => { "type": "string", "pattern": "^([0-9]{1,3}(\\.[0-9]{1,3}){3})?$" }
    LanAddress => { "type": "string", "pattern": "^[0-9a-fA-F.:]*$" }
    Mtu => { "type": ["string", "integer"], "pattern": "^(auto)?$", "minimum": 1280, "maximum": 9000 }
    After => { "type": "string", "pattern": "^(never|([0-9]+[smhd])+)?$" }
    Device => { "type": "string", "pattern": "^(auto|/dev/.+)?$" }
    Argument => { "type": ["string", "number", "boolean"] }
}

impl JsonSchema for NodeId {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "NodeId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$" })
    }
}

impl<const MIN: u16, const MAX: u16> JsonSchema for Number<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("NumberFrom{MIN}To{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}
