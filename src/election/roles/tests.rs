//! Who gets which role, when, and why not.

use super::*;
use crate::{address::Drawer, config::NetworkId, election::ClusterId, identity::Identity};

fn id(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn node(n: u8) -> NodeView {
    NodeView {
        name: format!("Host-{n}"),
        role: RoleSetting::Auto,
        abstains: false,
        requested: None,
        live: true,
        address: Some(Ipv4Addr::new(10, 1, 0, n)),
        server_ready: false,
        round_trip: Some(Duration::from_millis(u64::from(n))),
    }
}

fn view(nodes: u8, servers: u16) -> RolesView {
    let datastore = if servers > 1 { Datastore::Etcd } else { Datastore::Sqlite };
    let cluster = Cluster {
        cluster_id: ClusterId::from_bytes([5; 16]),
        network_id: NetworkId::default(),
        generation: 1,
        supersedes: None,
        founder: id(1),
        minimum_nodes: 2,
        servers,
        datastore,
        addresses: [].into(),
    };
    RolesView {
        servers: Servers::genesis(&cluster),
        cluster,
        epoch: 1,
        pool: Pool::new("10.1.0.0/16".parse().expect("a subnet"), Drawer::Node).expect("wide enough"),
        nodes: (1..=nodes).map(|n| (id(n), node(n))).collect(),
        assigned: BTreeMap::new(),
    }
}

/// Assigns until nothing is new; who became what, in order.
fn settle(view: &mut RolesView) -> Vec<(NodeId, Role)> {
    let mut given = Vec::new();
    loop {
        let new = assign(view);
        if new.is_empty() {
            return given;
        }
        for assignment in new {
            given.push((assignment.node, assignment.role));
            view.assigned.insert(assignment.node, assignment);
        }
    }
}

fn servers(view: &RolesView) -> Vec<NodeId> {
    view.servers().copied().collect()
}

#[test]
fn by_default_the_founder_is_the_one_server() {
    let mut view = view(4, 1);
    settle(&mut view);
    assert_eq!(view.assigned.len(), 4);
    assert_eq!(servers(&view), [id(1)]);
    assert_eq!(view.assigned[&id(3)].name, "host-3");
    assert!(assign(&view).is_empty(), "what is settled is not written again");
}

#[test]
fn servers_join_one_at_a_time_the_nearest_first() {
    let mut view = view(5, 3);
    view.nodes.get_mut(&id(2)).expect("known").round_trip = Some(Duration::from_millis(101));
    let given = settle(&mut view);
    assert_eq!(given, [(id(1), Role::Server), (id(2), Role::Worker), (id(5), Role::Worker)]);
    for (ready, next) in [(1, 3), (3, 4)] {
        view.nodes.get_mut(&id(ready)).expect("known").server_ready = true;
        assert_eq!(settle(&mut view), [(id(next), Role::Server)]);
    }
    view.nodes.get_mut(&id(4)).expect("known").server_ready = true;
    assert!(settle(&mut view).is_empty());
    // Who comes later is a worker, and nobody is promoted when a server dies.
    view.nodes.insert(id(6), node(6));
    view.nodes.get_mut(&id(3)).expect("known").live = false;
    assert_eq!(settle(&mut view), [(id(6), Role::Worker)]);
}

#[test]
fn a_place_is_kept_for_those_who_come_later() {
    let mut view = view(1, 3);
    settle(&mut view);
    view.nodes.get_mut(&id(1)).expect("known").server_ready = true;
    view.nodes.insert(id(7), node(7));
    assert_eq!(settle(&mut view), [(id(7), Role::Server)]);
}

#[test]
fn forced_roles_win() {
    let mut view = view(4, 3);
    view.nodes.get_mut(&id(2)).expect("known").role = RoleSetting::Worker;
    view.nodes.get_mut(&id(4)).expect("known").role = RoleSetting::Master;
    view.nodes.get_mut(&id(1)).expect("known").server_ready = true;
    settle(&mut view);
    view.nodes.get_mut(&id(4)).expect("known").server_ready = true;
    settle(&mut view);
    assert_eq!(servers(&view), [id(1), id(3), id(4)]);
    assert_eq!(check(&view, &id(2), Role::Server), Err(RequestError::Forced));
    assert_eq!(check(&view, &id(4), Role::Worker), Err(RequestError::Forced));
    assert_eq!(check(&view, &id(3), Role::Worker), Err(RequestError::IsServer));
    assert_eq!(check(&view, &id(9), Role::Worker), Err(RequestError::Unknown));
}

#[test]
fn a_second_forced_master_gets_nothing_where_one_server_is_all() {
    let mut view = view(3, 1);
    view.nodes.get_mut(&id(2)).expect("known").role = RoleSetting::Master;
    settle(&mut view);
    assert_eq!(view.assigned.keys().copied().collect::<Vec<_>>(), [id(1), id(3)]);
    assert_eq!(check(&view, &id(3), Role::Server), Err(RequestError::OneServer));
    assert_eq!(desired(RoleSetting::Master, None), Ok(None));
    let clash = Clash { assigned: Role::Worker };
    assert_eq!(desired(RoleSetting::Master, view.assigned.get(&id(3))), Err(clash));
    assert_eq!(desired(RoleSetting::Auto, view.assigned.get(&id(3))), Ok(Some(Role::Worker)));
}

#[test]
fn an_operator_promotes_a_worker_while_a_place_is_free() {
    let mut view = view(2, 3);
    view.nodes.get_mut(&id(2)).expect("known").requested = Some(Role::Worker);
    settle(&mut view);
    view.nodes.get_mut(&id(1)).expect("known").server_ready = true;
    let before = view.assigned[&id(2)].clone();
    assert_eq!(before.role, Role::Worker);
    assert_eq!(check(&view, &id(2), Role::Server), Ok(()));
    view.nodes.get_mut(&id(2)).expect("known").requested = Some(Role::Server);
    assert_eq!(assign(&view), [Assignment { role: Role::Server, ..before }]);
}

#[test]
fn addresses_are_frozen_and_of_one_node_only() {
    let mut view = view(4, 1);
    settle(&mut view);
    // Moved claims change nothing.
    view.nodes.get_mut(&id(2)).expect("known").address = Some(Ipv4Addr::new(10, 1, 9, 9));
    assert!(assign(&view).is_empty());
    // Taken, contested, unusable and missing addresses wait.
    for (n, address) in [(5, [10, 1, 0, 3]), (6, [10, 1, 0, 9]), (7, [10, 1, 0, 9]), (8, [10, 1, 3, 255])] {
        view.nodes.insert(id(n), NodeView { address: Some(address.into()), ..node(n) });
    }
    view.nodes.insert(id(10), NodeView { address: None, ..node(10) });
    assert!(assign(&view).is_empty());
    // What the certificate says counts more than a claim.
    view.cluster.addresses.insert(id(10), Ipv4Addr::new(10, 1, 0, 10));
    view.nodes.insert(id(11), NodeView { address: Some([10, 1, 0, 10].into()), ..node(11) });
    let new = assign(&view);
    assert_eq!(
        new.iter().map(|a| (a.node, a.address)).collect::<Vec<_>>(),
        [(id(10), [10, 1, 0, 10].into())]
    );
}

#[test]
fn names_are_unique_and_fit_kubernetes() {
    let mut view = view(5, 1);
    for (n, name) in [(1, "Node"), (2, "node"), (3, ""), (4, "a_b.-c."), (5, &"x".repeat(80))] {
        view.nodes.get_mut(&id(n)).expect("known").name = name.to_owned();
    }
    settle(&mut view);
    let names: Vec<_> = view.assigned.values().map(|assignment| assignment.name.as_str()).collect();
    assert_eq!(names, ["node", "node-02020202", "03030303", "a-b.c", &"x".repeat(54)]);
}

/// Three ready servers and two workers; the servers' keys, the founder's first.
fn with_three_servers() -> (RolesView, Vec<Identity>) {
    let keys: Vec<Identity> = (1..=5).map(|n| Identity::from_seed(&[n; 32])).collect();
    let mut view = view(0, 3);
    view.cluster.founder = keys[0].id();
    view.servers = Servers::genesis(&view.cluster);
    for (n, key) in keys.iter().enumerate() {
        let server = n < 3;
        view.nodes.insert(key.id(), NodeView { server_ready: server, ..node(n as u8 + 1) });
        let role = if server { Role::Server } else { Role::Worker };
        if server && n > 0 {
            view.servers = view.servers.add(&keys[0], 1, key.id()).expect("the founder leads");
        }
        let assignment = Assignment {
            node: key.id(),
            role,
            cluster_id: view.cluster.cluster_id,
            address: [10, 1, 0, n as u8 + 1].into(),
            name: format!("host-{}", n + 1),
            epoch: 1,
        };
        view.assigned.insert(key.id(), assignment);
    }
    (view, keys)
}

#[test]
fn a_dead_server_is_replaced_by_one_worker_once_it_was_taken_off_the_list() {
    let (mut view, keys) = with_three_servers();
    #[expect(clippy::disallowed_methods, reason = "any instant will do: only differences count")]
    let now = Instant::now();
    let (dead, after) = (keys[0].id(), Duration::from_secs(300));
    assert_eq!(replaceable(&view, &BTreeMap::new(), after, now), None, "all are there");
    view.nodes.get_mut(&dead).expect("known").live = false;
    let away = BTreeMap::from([(dead, now)]);
    assert_eq!(replaceable(&view, &away, after, now + Duration::from_secs(299)), None);
    assert_eq!(replaceable(&view, &away, after, now + after), Some(dead));
    assert!(assign(&view).is_empty(), "nobody is promoted while the dead one is on the list");

    let consent = view.servers.consent(&keys[2], &dead);
    view.servers = view.servers.remove(&keys[1], 2, dead, [consent]).expect("two of two");
    view.epoch = 2;
    let new = assign(&view);
    assert_eq!(
        new.iter().map(|a| (a.node, a.role, a.epoch)).collect::<Vec<_>>(),
        [(keys[3].id(), Role::Server, 2)],
        "the nearest worker, and only one"
    );
    view.assigned.extend(new.into_iter().map(|assignment| (assignment.node, assignment)));
    assert!(assign(&view).is_empty());
    // It comes back: nothing is given to it any more.
    view.nodes.get_mut(&dead).expect("known").live = true;
    assert!(assign(&view).is_empty());
    assert_eq!(check(&view, &dead, Role::Worker), Err(RequestError::WasServer));
}

#[test]
fn no_server_is_replaced_without_the_majority_of_all_and_the_rest_ready() {
    let (mut view, keys) = with_three_servers();
    #[expect(clippy::disallowed_methods, reason = "any instant will do: only differences count")]
    let now = Instant::now();
    let away = BTreeMap::from([(keys[0].id(), now), (keys[1].id(), now)]);
    view.nodes.get_mut(&keys[0].id()).expect("known").live = false;
    view.nodes.get_mut(&keys[1].id()).expect("known").live = false;
    assert_eq!(replaceable(&view, &away, Duration::ZERO, now), None, "one of three");
    view.nodes.get_mut(&keys[1].id()).expect("known").live = true;
    view.nodes.get_mut(&keys[2].id()).expect("known").server_ready = false;
    assert_eq!(replaceable(&view, &away, Duration::ZERO, now), None, "one of the rest is not well");
}

#[test]
fn what_does_not_hold_yet_is_explained() {
    let mut view = view(3, 3);
    settle(&mut view);
    assert_eq!(pending(&view, &id(2), Role::Server), Pending::Servers(vec!["Host-1".to_owned()]));
    view.nodes.get_mut(&id(2)).expect("known").round_trip = Some(Duration::from_millis(180));
    let text = pending(&view, &id(2), Role::Server).to_string();
    assert!(text.contains("180 ms") && text.contains("100 ms"), "{text}");
}
