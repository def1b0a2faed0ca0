//! Cloud-config text to [`Config`]: every mistake at once, with its place and what to write instead.
//!
//! ```text
//! Source, Source, ...      bytes of files, in the order in which later ones count over earlier ones
//!   | tree                 YAML with positions; of a broken file, what comes before the break
//!   | document             the blocks, declared once: how they are read, and their JSON schema
//!   |   old_keys           Kairos' `p2p` and the original's environment, taken for settings of ours
//!   | command_line         `c3os.role=master` counts over all files
//!   v
//! meaning, check           defaults, and what does not go together
//!   v
//! Parsed { config, mistakes, origins }
//! ```
//!
//! Only our own blocks are read; other keys at the top of a file belong to others. Maps merge over the files, anything
//! else replaces. `validate` fails on every mistake that is an error. A booting machine never does: each mistake says
//! what the machine makes of it ([`AtBoot`]), and there is always a [`Config`].

mod block;
mod check;
mod command_line;
mod create;
mod document;
mod file;
mod meaning;
mod mistake;
mod old_keys;
mod origin;
mod reader;
mod scalar;
mod schema;

mod settings;
mod suggest;
mod tree;

#[cfg(test)]
mod tests;

pub use create::create_config;
pub use mistake::{AtBoot, Mistake, Severity};
pub use origin::{Origin, Origins};
pub use schema::{schema, schema_text};
pub use settings::{
    Auto, Config, Discovery, Install, K3s, Kubevip, LogLevel, MOST_VOTES, NetworkId, NetworkIdError,
    RoleSetting, TokenText, Vpn,
};

/// The text of one file, in the order in which files are merged.
#[derive(Clone)]
pub struct Source {
    /// For people: where it was read from.
    pub path: String,
    /// The bytes, as they are. Readers may stop after [`MAX_FILE_BYTES`] + 1.
    pub text: Vec<u8>,
}

/// Larger files are refused: a configuration is a page or two.
pub const MAX_FILE_BYTES: usize = 1_000_000;

/// What the files say, and everything that is wrong in them.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// Always usable: what is wrong is left out, see [`AtBoot`].
    pub config: Config,
    /// `c3os.network_token_file`, if there is no token beside it: to be read by the caller, who then sets
    /// `config.network_token`, or calls [`Parsed::refuse`].
    pub token_file: Option<String>,
    /// In the order of files, lines and columns.
    pub mistakes: Vec<Mistake>,
    /// Which file each setting comes from; its `Display` is `validate --explain`.
    pub origins: Origins,
}

/// Reads `sources`, later ones over earlier ones, and then the kernel's command line (empty: none).
pub fn parse(sources: &[Source], command_line: &str) -> Parsed {
    let mut reader = reader::Reader::default();
    let mut document = None;
    for (index, source) in sources.iter().enumerate() {
        reader.open(index, &source.path);
        file::read(source, &mut document, &mut reader);
    }
    reader.open(sources.len(), "kernel command line");
    for words in command_line::documents(command_line, &mut reader) {
        file::read_root(&words, &mut document, &mut reader);
    }

    let document = document.unwrap_or_default();
    let token_file = document.c3os.as_ref().and_then(|c3os| c3os.network_token_file.clone());
    let mut config = meaning::config(document, &reader);
    check::together(&mut config, &mut reader);
    config.frozen = reader.frozen();
    let token_file = token_file.map(|path| path.0).filter(|_| config.network_token.is_none());
    let (mistakes, origins) = reader.into_findings();
    Parsed { config, token_file, mistakes, origins }
}

impl Parsed {
    /// Whether `validate` fails.
    pub fn has_errors(&self) -> bool {
        self.mistakes.iter().any(|mistake| mistake.severity == Severity::Error)
    }

    /// Adds what another room found wrong with the value of `key`, such as the room `token` with `c3os.network_token`.
    pub fn refuse(&mut self, key: &str, at_boot: AtBoot, message: String, hint: Option<String>) {
        let origin = self.origins.get(key);
        self.mistakes.push(Mistake {
            file: origin.map(|origin| origin.file.clone()).unwrap_or_default(),
            line: origin.map_or(1, |origin| origin.line),
            column: origin.map_or(1, |origin| origin.column),
            key: origin.map_or_else(|| key.to_owned(), |origin| origin.written.clone()),
            severity: Severity::Error,
            at_boot,
            message,
            hint,
        });
        self.config.frozen |= at_boot == AtBoot::Frozen;
    }
}
