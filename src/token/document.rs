//! The inner layer: the YAML of the original, with our own map before it.
//!
//! ```yaml
//! c3os:                      # ours alone; the original's tools ignore it
//!   version: 1
//!   mesh_id: <64 hex digits> # of the first token of this mesh
//!   check: <16 hex digits>   # over everything else: a changed character is seen
//!   peers: [..]
//! otp:
//!   dht:    { interval, key, length }
//!   crypto: { interval, key, length }
//! room, rendezvous, mdns, max_message_size
//! ```
//!
//! Our map comes first so that a token that lost its end always lacks one of the original's fields: all of its
//! generators write every one of them (EdgeVPN, `pkg/node/options.go`).

use serde::Deserialize;
use zeroize::Zeroizing;

use super::{MeshId, TokenError};

/// The newest version of our map that is read.
pub(super) const VERSION: u32 = 1;

const MAXIMUM_FIELD: usize = 512;
const MAXIMUM_PEERS: usize = 32;
const MAXIMUM_PEER: usize = 256;

/// The secret texts of a token of any generation need this many characters in sum; every generator makes over 150.
const MINIMUM_SECRET: usize = 32;

/// A one-time-password section. Its numbers have no effect here and are kept for tools that look inside.
#[derive(Clone)]
pub(super) struct Otp {
    pub(super) interval: i64,
    pub(super) key: Zeroizing<String>,
    pub(super) length: i64,
}

/// The fields that every generation has.
#[derive(Clone)]
pub(super) struct Fields {
    pub(super) dht: Otp,
    pub(super) crypto: Otp,
    pub(super) room: Zeroizing<String>,
    pub(super) rendezvous: Zeroizing<String>,
    pub(super) mdns: Zeroizing<String>,
    pub(super) max_message_size: i64,
}

/// What the original had no place for.
#[derive(Clone)]
pub(super) struct Extension {
    pub(super) mesh_id: MeshId,
    pub(super) peers: Vec<String>,
}

/// Reads the YAML. The check is not looked at here; it comes out for the caller.
pub(super) fn parse(
    text: &str,
    encoded_length: usize,
) -> Result<(Fields, Option<(Extension, String)>), TokenError> {
    // Every generator ends the document with a line feed; one that does not end so lost something.
    let cut = TokenError::Cut { length: encoded_length };
    let whole = |error| if text.ends_with('\n') { error } else { cut };
    // The parser's own messages quote the document, so nothing but the line is taken from them.
    let options = serde_yaml::options! { legacy_octal_numbers: true, with_snippet: false };
    let document: Document = serde_yaml::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(0, |at| at.line());
        if text.starts_with("otp:") || text.starts_with("c3os:") {
            whole(TokenError::NotYaml { line })
        } else {
            TokenError::NotYaml { line }
        }
    })?;
    let (otp, c3os) = (document.otp, document.c3os);
    if otp.is_none() && document.room.is_none() {
        return Err(TokenError::NotYaml { line: 0 });
    }
    let (dht, crypto) = otp.map_or((None, None), |otp| (otp.dht, otp.crypto));
    let fields = Fields {
        dht: section(dht, ["otp.dht", "otp.dht.interval", "otp.dht.key", "otp.dht.length"]).map_err(whole)?,
        crypto: section(crypto, ["otp.crypto", "otp.crypto.interval", "otp.crypto.key", "otp.crypto.length"])
            .map_err(whole)?,
        room: secret(document.room, "room").map_err(whole)?,
        rendezvous: secret(document.rendezvous, "rendezvous").map_err(whole)?,
        mdns: secret(document.mdns, "mdns").map_err(whole)?,
        max_message_size: present(document.max_message_size, "max_message_size").map_err(whole)?,
    };
    let secret_length: usize = fields.secrets().iter().map(|text| text.len()).sum();
    if secret_length < MINIMUM_SECRET {
        return Err(TokenError::Guessable);
    }
    Ok((fields, c3os.map(extension).transpose()?))
}

fn section(section: Option<SectionText>, names: [&'static str; 4]) -> Result<Otp, TokenError> {
    let [name, interval, key, length] = names;
    let section = present(section, name)?;
    Ok(Otp {
        interval: present(section.interval, interval)?,
        key: secret(section.key, key)?,
        length: present(section.length, length)?,
    })
}

fn extension(map: ExtensionText) -> Result<(Extension, String), TokenError> {
    let version = present(map.version, "c3os.version")?;
    if version == 0 || version > VERSION {
        return Err(TokenError::Version { version, known: VERSION });
    }
    let mesh_id = present(map.mesh_id, "c3os.mesh_id")?.parse().map_err(|_| TokenError::Damaged)?;
    let check = present(map.check, "c3os.check")?;
    let peers = map.peers.unwrap_or_default();
    check_peers(&peers)?;
    Ok((Extension { mesh_id, peers }, check))
}

fn present<T>(value: Option<T>, field: &'static str) -> Result<T, TokenError> {
    value.ok_or(TokenError::Missing { field })
}

fn secret(value: Option<String>, field: &'static str) -> Result<Zeroizing<String>, TokenError> {
    let value = Zeroizing::new(present(value, field)?);
    if value.len() > MAXIMUM_FIELD {
        return Err(TokenError::FieldTooLong { field, limit: MAXIMUM_FIELD });
    }
    Ok(value)
}

/// Whether these may stand in a token: not too many, and multiaddresses by their looks.
pub(super) fn check_peers(peers: &[String]) -> Result<(), TokenError> {
    if peers.len() > MAXIMUM_PEERS {
        return Err(TokenError::TooManyPeers { limit: MAXIMUM_PEERS });
    }
    let multiaddress = |peer: &String| {
        peer.len() <= MAXIMUM_PEER
            && peer.starts_with('/')
            && peer.bytes().all(|b| b.is_ascii_graphic() && !b"\"\\".contains(&b))
    };
    match peers.iter().position(|peer| !multiaddress(peer)) {
        Some(index) => Err(TokenError::Peer { position: index + 1 }),
        None => Ok(()),
    }
}

impl Fields {
    /// The texts that make a token secret, in the order all derivations take them.
    pub(super) fn secrets(&self) -> [&str; 5] {
        [&self.dht.key, &self.crypto.key, &self.room, &self.rendezvous, &self.mdns]
    }

    /// The YAML document, in the layout of the original's generator, with our map if there is one.
    pub(super) fn write(&self, extension: Option<(&Extension, &str)>) -> Zeroizing<String> {
        use std::fmt::Write;
        // Reserved so that growing leaves no copy of a secret behind.
        let peers = extension.map_or(0, |(extension, _)| extension.peers.iter().map(String::len).sum());
        let secrets: usize = self.secrets().iter().map(|text| text.len()).sum();
        let mut yaml = Zeroizing::new(String::with_capacity(1024 + 2 * secrets + 2 * peers));
        let mut line = |indent: usize, key: &str, value: &str| {
            let space = if value.is_empty() { "" } else { " " };
            writeln!(yaml, "{:indent$}{key}:{space}{value}", "").expect("a String takes all that is written");
        };
        if let Some((extension, check)) = extension {
            line(0, "c3os", "");
            line(2, "version", &VERSION.to_string());
            line(2, "mesh_id", &format!("\"{}\"", extension.mesh_id));
            line(2, "check", &format!("\"{check}\""));
            line(2, "peers", &serde_json::to_string(&extension.peers).expect("a list of texts is JSON"));
        }
        line(0, "otp", "");
        for (name, otp) in [("dht", &self.dht), ("crypto", &self.crypto)] {
            line(2, name, "");
            line(4, "interval", &otp.interval.to_string());
            line(4, "key", &scalar(&otp.key));
            line(4, "length", &otp.length.to_string());
        }
        line(0, "room", &scalar(&self.room));
        line(0, "rendezvous", &scalar(&self.rendezvous));
        line(0, "mdns", &scalar(&self.mdns));
        line(0, "max_message_size", &self.max_message_size.to_string());
        yaml
    }
}

/// Plain as the original writes it, unless somebody could read it as a number or anything but a text.
fn scalar(text: &str) -> Zeroizing<String> {
    // Letters that no spelling of a number has (digits, exponents, 0x, 0o, nan, inf).
    let number =
        |b: u8| !matches!(b.to_ascii_lowercase(), b'g' | b'h' | b'j'..=b'm' | b'p'..=b'w' | b'y' | b'z');
    if text.len() >= 16 && !text.bytes().all(number) && text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        Zeroizing::new(text.to_owned())
    } else {
        Zeroizing::new(serde_json::to_string(text).expect("a text is JSON, and JSON is YAML"))
    }
}

#[derive(Deserialize)]
struct Document {
    c3os: Option<ExtensionText>,
    otp: Option<OtpText>,
    room: Option<String>,
    rendezvous: Option<String>,
    mdns: Option<String>,
    max_message_size: Option<i64>,
}

#[derive(Deserialize)]
struct OtpText {
    dht: Option<SectionText>,
    crypto: Option<SectionText>,
}

#[derive(Deserialize)]
struct SectionText {
    interval: Option<i64>,
    key: Option<String>,
    length: Option<i64>,
}

#[derive(Deserialize)]
struct ExtensionText {
    version: Option<u32>,
    mesh_id: Option<String>,
    check: Option<String>,
    peers: Option<Vec<String>>,
}
