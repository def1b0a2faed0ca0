//! Who may reach k3s' ports. k3s listens on every address of the machine; a table of ours drops what does not come
//! from the mesh, the pods or the machine itself.

use super::{Content, MARK, PlannedFile, settings};
use crate::{config::Config, election::Role};

/// The rules, in the form that `nft -f` reads.
pub(super) const PATH: &str = "/etc/rancher/k3s/c3os-ports.nft";

/// The rules for a role; none where k3s belongs on the LAN or the user opened it.
pub(super) fn rules(config: &Config, role: Role) -> Option<PlannedFile> {
    if !settings::on_the_mesh(config) || settings::block(config, role).expose {
        return None;
    }
    let interface = &config.vpn.interface;
    let virtual_address = match (role, config.kubevip.eip.as_deref().map(str::parse::<std::net::IpAddr>)) {
        (Role::Server, Some(Ok(std::net::IpAddr::V4(address)))) => {
            format!("\t\tip daddr {address} tcp dport 6443 accept\n")
        }
        (Role::Server, Some(Ok(std::net::IpAddr::V6(address)))) => {
            format!("\t\tip6 daddr {address} tcp dport 6443 accept\n")
        }
        (Role::Server, Some(Err(_)) | None) | (Role::Worker, _) => String::new(),
    };
    // The first two lines make the file good for a table that exists and for one that does not.
    let text = format!(
        "{MARK}table inet c3os
delete table inet c3os
table inet c3os {{
\tchain k3s {{
\t\ttype filter hook input priority filter - 5; policy accept;
\t\tiifname {{ \"lo\", \"{interface}\", \"cni0\" }} accept
\t\tiifname \"flannel*\" accept
\t\tiifname \"veth*\" accept
{virtual_address}\t\ttcp dport {{ 2379-2381, 5001, 6443, 10250 }} drop
\t\tudp dport 8472 drop
\t}}
}}
"
    );
    Some(PlannedFile { path: PATH, mode: 0o600, content: Content::Public(text) })
}
