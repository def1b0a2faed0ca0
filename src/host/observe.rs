//! What k3s is really doing on this machine, as opposed to what it was told to.

use zeroize::Zeroizing;

use super::{HostError, Root, Services, UnitState, machine, process};
use crate::{election::Role, k3s::CaHash};

/// Where k3s writes the administrator's kubeconfig on a server.
const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";
/// Where k3s writes its own server token, in the form that carries the CA's hash.
const SERVER_TOKEN: &str = "/var/lib/rancher/k3s/server/node-token";

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct K3sObserved {
    /// The unit of the role.
    pub unit: UnitState,
    /// On a server: the hash of its CA, once k3s has one.
    pub ca_hash: Option<CaHash>,
    /// On a server: its kubeconfig is there.
    pub kubeconfig: bool,
    /// The k3s binary is there.
    pub installed: bool,
}

impl K3sObserved {
    /// A server that others may join.
    pub fn server_is_up(&self) -> bool {
        self.unit == UnitState::Active && self.ca_hash.is_some() && self.kubeconfig
    }
}

/// Looks at the unit of `role` and at what k3s left on the disk. Cheap enough for every few seconds.
///
/// # Errors
/// [`HostError::Command`] if the service manager does not answer; [`HostError::File`] if the disk does not.
pub fn observe(root: &Root, services: &dyn Services, role: Role) -> Result<K3sObserved, HostError> {
    let unit = services.status(unit_of(role))?.state;
    let installed = machine::k3s_binary(root).is_some();
    let (ca_hash, kubeconfig) = match role {
        Role::Worker => (None, false),
        Role::Server => {
            let token = root.read(&root.path(SERVER_TOKEN))?.map(Zeroizing::new);
            let hash = token.and_then(|token| CaHash::of_token(std::str::from_utf8(&token).ok()?));
            (hash, root.path(KUBECONFIG).is_file())
        }
    };
    Ok(K3sObserved { unit, ca_hash, kubeconfig, installed })
}

/// The unit of a role.
pub(super) fn unit_of(role: Role) -> &'static str {
    match role {
        Role::Server => "k3s",
        Role::Worker => "k3s-agent",
    }
}

/// k3s' own kubeconfig, as it is on this server; none as long as k3s has not written it.
///
/// # Errors
/// [`HostError::File`].
pub fn kubeconfig(root: &Root) -> Result<Option<Zeroizing<String>>, HostError> {
    let bytes = root.read(&root.path(KUBECONFIG))?.map(Zeroizing::new);
    Ok(bytes.map(|bytes| Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned())))
}

/// The version of the installed k3s, such as `v1.33.5+k3s1`; none if there is none. Starts it: ask once.
///
/// # Errors
/// [`HostError::Command`] if it cannot be run.
pub fn k3s_version(root: &Root) -> Result<Option<String>, HostError> {
    let Some(binary) = machine::k3s_binary(root) else {
        return Ok(None);
    };
    let text = process::run(&root.path(binary).to_string_lossy(), &["--version"])?;
    Ok(version_in(&text))
}

/// `k3s version v1.33.5+k3s1 (fab4a5c3)`, then the version of Go.
fn version_in(text: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.strip_prefix("k3s version ")?.split_whitespace().next().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_third_word_of_its_line() {
        let text = "k3s version v1.33.5+k3s1 (fab4a5c3)\ngo version go1.24.6\n";
        assert_eq!(version_in(text).as_deref(), Some("v1.33.5+k3s1"));
        assert_eq!(version_in("sample k3s"), None);
    }
}
