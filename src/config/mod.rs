//! Cloud-config text to [`Config`].

mod mistake;
mod settings;

pub use mistake::{AtBoot, Mistake, Severity};
pub use settings::{
    Auto, Config, Discovery, Install, K3s, Kubevip, LogLevel, NetworkId, NetworkIdError, RoleSetting,
    TokenText, Vpn,
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
    /// `c3os.network_token_file`: to be read by the caller, who then sets `config.network_token`.
    pub token_file: Option<String>,
    /// In the order of files, lines and columns.
    pub mistakes: Vec<Mistake>,
}
