//! Ending a role: k3s stopped, and what it kept of a cluster set aside. Nothing is ever removed.

use super::{HostError, Root, Services, node_password, read_applied};
use crate::election::ClusterId;

/// Where k3s keeps a cluster's state.
const K3S_STATE: &str = "/var/lib/rancher/k3s";
const UNITS: [&str; 2] = ["k3s", "k3s-agent"];

/// Stops k3s in either role, and has it start no more at boot. Its files stay.
///
/// # Errors
/// [`HostError::Command`] if the service manager does not do it.
pub fn stop(services: &dyn Services) -> Result<(), HostError> {
    for unit in UNITS {
        let status = services.status(unit)?;
        if status.state.is_on() {
            services.stop(unit)?;
        }
        if status.enabled {
            services.set_enabled(unit, false)?;
        }
    }
    Ok(())
}

/// Leaves the cluster `left`, by somebody's word: k3s is stopped, its state gets the cluster's name at its end, and the
/// machine counts as applied to nothing. It may end after any step and be done again; where another cluster than `left`
/// is applied, or none, nothing is done.
///
/// # Errors
/// [`HostError`]: the change is incomplete, and the next try takes it up.
pub fn leave(root: &Root, services: &dyn Services, left: ClusterId) -> Result<(), HostError> {
    if read_applied(root)?.is_none_or(|applied| applied.cluster_id != left) {
        return Ok(());
    }
    stop(services)?;
    let [password, its_place] = node_password::places(root);
    for place in [root.path(K3S_STATE), password, its_place].iter().filter(|place| place.exists()) {
        root.set_aside(place, &left.to_string())?;
    }
    root.remove(&root.state("deployed"))?;
    root.remove(&root.state("applied"))?;
    Ok(())
}
