//! The way of a verb to the agent or bridge of this machine.

use std::{future::Future, io};

use crate::{
    api::{Client, ClientError},
    node::snapshot::{Member, Snapshot},
};

/// Where to ask.
#[derive(Debug, clap::Args)]
pub(super) struct Api {
    /// Where the agent or bridge answers: unix:///PATH or http://HOST:PORT; without it, the usual socket.
    #[arg(long, env = "C3OS_API", value_name = "URL")]
    api: Option<String>,
}

impl Api {
    pub(super) fn client(&self) -> Result<Client, ClientError> {
        Client::find(self.api.as_deref().filter(|text| !text.is_empty()))
    }

    /// Asks once for the picture of this member.
    pub(super) fn status(&self) -> anyhow::Result<Snapshot> {
        let client = self.client()?;
        Ok(block_on(client.status())??)
    }
}

/// Waits for one answer.
pub(super) fn block_on<T>(answer: impl Future<Output = T>) -> io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(answer))
}

/// The member that is called `text`: its id or the end of it, name, uuid or address.
pub(super) fn member<'a>(snapshot: &'a Snapshot, text: &str) -> anyhow::Result<&'a Member> {
    let fits = |member: &&Member| {
        member.name == text
            || member.uuid == text
            || member.id.to_string() == text
            || member.id.short() == text
            || member.ipv4.is_some_and(|address| address.to_string() == text)
            || member.ipv6.to_string() == text
    };
    let found: Vec<&Member> = snapshot.members.iter().filter(fits).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => anyhow::bail!("no member is called {text}; `c3os status` lists them"),
        several => {
            anyhow::bail!("{} members are called {text}; use an id of `c3os status`", several.len())
        }
    }
}

/// Reads the name of a node. It becomes part of a path, so it is held to what ids, names and addresses consist of.
pub(super) fn node(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if !text.is_empty() && text.len() <= 320 && text.chars().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("use the id, name, uuid or address of a member: `c3os status` lists them".to_owned())
    }
}
