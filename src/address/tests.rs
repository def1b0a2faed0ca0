#![expect(clippy::disallowed_methods, reason = "a start to count virtual time from")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;
use proptest::prelude::*;

use super::{
    AddressError, AddressLease, Claim, Drawer, Lease, LeaseEvent, LeaseSettings, LocalNet, Pool, STILL_TIME,
    Standing, candidate, overlap, pool::rank, ula, ula_prefix,
};
use crate::{identity::NodeId, token::MeshId};

const MESH: MeshId = MeshId::from_bytes([7; 32]);
const NOBODY: BTreeMap<NodeId, Claim> = BTreeMap::new();
const NONE_ASSIGNED: BTreeMap<NodeId, Ipv4Addr> = BTreeMap::new();

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn pool(subnet: &str) -> Pool {
    Pool::new(net(subnet), Drawer::Node).unwrap()
}

fn settings(number: u8, subnet: &str) -> LeaseSettings {
    LeaseSettings { id: node(number), mesh_id: MESH, pool: pool(subnet), fixed: None }
}

fn start(settings: LeaseSettings, remembered: Option<Lease>, now: Instant) -> AddressLease {
    AddressLease::new(settings, remembered, now).unwrap()
}

fn fresh(number: u8, now: Instant) -> AddressLease {
    start(settings(number, "10.1.0.0/16"), None, now)
}

fn confirmed(number: u8, now: Instant) -> AddressLease {
    let mut lease = fresh(number, now);
    lease.handle_timeout(now + STILL_TIME);
    lease
}

fn events(lease: &mut AddressLease) -> Vec<LeaseEvent> {
    std::iter::from_fn(|| lease.poll_event()).collect()
}

fn claim(v4: Ipv4Addr, standing: Standing) -> Claim {
    let (confirmed, firm) = (standing >= Standing::Confirmed, standing >= Standing::Firm);
    Claim { v4, attempt: 0, confirmed, firm }
}

/// Two other nodes: one that ranks before `number` at this address, one that ranks after it.
fn stronger_and_weaker(number: u8, address: Ipv4Addr) -> (NodeId, NodeId) {
    let mine = rank(address, node(number));
    let others = || (0..=255).map(node).filter(|id| *id != node(number));
    let stronger = others().find(|id| rank(address, *id) < mine).unwrap();
    (stronger, others().find(|id| rank(address, *id) > mine).unwrap())
}

#[test]
fn a_single_node_has_its_address_at_once_and_it_is_confirmed_after_a_still_time() {
    let now = Instant::now();
    let mut lease = fresh(1, now);
    let address = lease.address().unwrap();
    assert_eq!(lease.standing(), Some(Standing::Claimed));
    let (at, _) = lease.poll_timeout().unwrap();
    assert_eq!(at, now + STILL_TIME);

    lease.handle_timeout(at - Duration::from_millis(1));
    assert_eq!(lease.standing(), Some(Standing::Claimed));
    lease.handle_timeout(at);
    assert_eq!(lease.standing(), Some(Standing::Confirmed));
    assert_eq!(lease.address(), Some(address));
    assert_eq!(events(&mut lease), [LeaseEvent::Confirmed { address }]);
    assert_eq!(lease.poll_timeout(), None);
}

#[test]
fn after_a_reboot_the_same_address_is_there_with_no_network_at_all() {
    let now = Instant::now();
    let mut before = confirmed(1, now);
    let again = start(settings(1, "10.1.0.0/16"), before.lease(), now);
    assert_eq!((again.address(), again.standing()), (before.address(), Some(Standing::Confirmed)));

    before.handle_claims(&NOBODY, &BTreeMap::from([(node(1), v4("10.1.9.9"))]), now);
    let again = start(settings(1, "10.1.0.0/16"), before.lease(), now);
    assert_eq!((again.address(), again.standing()), (Some(v4("10.1.9.9")), Some(Standing::Assigned)));
}

#[test]
fn a_lease_that_this_machine_could_not_have_drawn_is_forgotten_unless_it_is_frozen() {
    let now = Instant::now();
    let drawn = fresh(1, now).address();
    let mut lease = Lease { mesh_id: MESH, v4: v4("10.7.0.9"), attempt: 0, confirmed: true, frozen: false };
    assert_eq!(start(settings(1, "10.1.0.0/16"), Some(lease), now).address(), drawn);
    lease.v4 = v4("10.1.255.9"); // an observer's
    assert_eq!(start(settings(1, "10.1.0.0/16"), Some(lease), now).address(), drawn);
    lease = Lease { mesh_id: MeshId::from_bytes([8; 32]), v4: v4("10.1.3.4"), ..lease };
    assert_eq!(start(settings(1, "10.1.0.0/16"), Some(lease), now).address(), drawn, "another mesh's");
    lease = Lease { v4: v4("10.7.0.9"), frozen: true, ..lease };
    assert_eq!(start(settings(1, "10.1.0.0/16"), Some(lease), now).address(), Some(v4("10.7.0.9")));
}

#[test]
fn a_lease_on_disk_is_for_people_to_read_and_keeps_its_form() {
    let lease = Lease { mesh_id: MESH, v4: v4("10.1.3.4"), attempt: 2, confirmed: true, frozen: false };
    let json =
        format!(r#"{{"mesh_id":"{MESH}","v4":"10.1.3.4","attempt":2,"confirmed":true,"frozen":false}}"#);
    assert_eq!(serde_json::to_string(&lease).unwrap(), json);
    assert_eq!(serde_json::from_str::<Lease>(&json).unwrap(), lease);
    let bare = format!(r#"{{"mesh_id":"{MESH}","v4":"10.1.3.4"}}"#);
    let bare: Lease = serde_json::from_str(&bare).unwrap();
    assert_eq!(bare, Lease { attempt: 0, confirmed: false, ..lease });
}

#[test]
fn of_two_equal_claims_the_lower_rank_keeps_the_address_and_the_other_moves() {
    let now = Instant::now();
    for standing in [Standing::Claimed, Standing::Confirmed] {
        let mut lease = if standing == Standing::Claimed { fresh(1, now) } else { confirmed(1, now) };
        let address = lease.address().unwrap();
        let (stronger, weaker) = stronger_and_weaker(1, address);
        events(&mut lease);

        lease.handle_claims(&BTreeMap::from([(weaker, claim(address, standing))]), &NONE_ASSIGNED, now);
        assert_eq!((lease.address(), events(&mut lease)), (Some(address), vec![]));

        lease.handle_claims(&BTreeMap::from([(stronger, claim(address, standing))]), &NONE_ASSIGNED, now);
        let next = Some(candidate(MESH, node(1), 1, &pool("10.1.0.0/16")));
        assert_eq!(lease.address(), next);
        assert_eq!(lease.standing(), Some(Standing::Claimed));
        assert_eq!(events(&mut lease), [LeaseEvent::Lost { address, to: stronger, next }]);
    }
}

#[test]
fn the_firmer_standing_keeps_the_address_whatever_the_rank() {
    let now = Instant::now();
    let address = fresh(1, now).address().unwrap();
    let (stronger, weaker) = stronger_and_weaker(1, address);

    let mut lease = confirmed(1, now);
    lease.handle_claims(
        &BTreeMap::from([(stronger, claim(address, Standing::Claimed))]),
        &NONE_ASSIGNED,
        now,
    );
    assert_eq!(lease.address(), Some(address), "confirmed beats claimed");

    let mut lease = fresh(1, now);
    lease.handle_claims(
        &BTreeMap::from([(weaker, claim(address, Standing::Confirmed))]),
        &NONE_ASSIGNED,
        now,
    );
    assert_ne!(lease.address(), Some(address), "claimed yields to confirmed");

    let mut lease = confirmed(1, now);
    lease.handle_claims(&BTreeMap::from([(weaker, claim(address, Standing::Firm))]), &NONE_ASSIGNED, now);
    assert_ne!(lease.address(), Some(address), "confirmed yields to fixed");

    let mut lease = confirmed(1, now);
    lease.handle_claims(&NOBODY, &BTreeMap::from([(weaker, address)]), now);
    assert_ne!(lease.address(), Some(address), "everything yields to assigned, even one that claims nothing");
}

#[test]
fn the_first_draw_skips_what_is_known_to_be_lost() {
    let now = Instant::now();
    let mut lease = fresh(1, now);
    let pool = pool("10.1.0.0/16");
    let (first, second) = (candidate(MESH, node(1), 0, &pool), candidate(MESH, node(1), 1, &pool));
    let claims = BTreeMap::from([
        (node(2), claim(first, Standing::Confirmed)),
        (node(3), claim(second, Standing::Confirmed)),
    ]);
    lease.handle_claims(&claims, &NONE_ASSIGNED, now);
    assert_eq!(lease.address(), Some(candidate(MESH, node(1), 2, &pool)));
    assert_eq!(lease.claim().unwrap().attempt, 2);
}

#[test]
fn an_assignment_moves_a_node_once_and_then_never_again() {
    let now = Instant::now();
    let mut lease = confirmed(1, now);
    let (before, assigned) = (lease.address(), v4("10.1.3.4"));
    events(&mut lease);
    let facts = BTreeMap::from([(node(1), assigned)]);
    lease.handle_claims(&NOBODY, &facts, now);
    lease.handle_claims(&NOBODY, &facts, now);
    assert_eq!(events(&mut lease), [LeaseEvent::Frozen { address: assigned, before }]);
    assert_eq!(lease.lease().map(|lease| (lease.v4, lease.frozen)), Some((assigned, true)));

    let other = BTreeMap::from([(node(1), v4("10.1.3.5"))]);
    lease.handle_claims(&NOBODY, &other, now);
    lease.handle_claims(&NOBODY, &other, now);
    assert_eq!(lease.address(), Some(assigned));
    assert_eq!(
        events(&mut lease),
        [LeaseEvent::AssignedElsewhere { frozen: assigned, assigned: v4("10.1.3.5") }]
    );
}

#[test]
fn an_assignment_outside_the_subnet_is_told_and_not_used() {
    let now = Instant::now();
    let mut lease = confirmed(1, now);
    let address = lease.address();
    events(&mut lease);
    let facts = BTreeMap::from([(node(1), v4("10.2.0.1"))]);
    lease.handle_claims(&NOBODY, &facts, now);
    lease.handle_claims(&NOBODY, &facts, now);
    assert_eq!(lease.address(), address);
    assert_eq!(events(&mut lease), [LeaseEvent::AssignedOutside { assigned: v4("10.2.0.1") }]);
}

#[test]
fn a_clash_with_a_frozen_address_is_loud_once_and_again_after_it_was_gone() {
    let now = Instant::now();
    let (address, rival) = (v4("10.1.3.4"), node(9));
    let mut lease = fresh(1, now);
    let mine = BTreeMap::from([(node(1), address)]);
    lease.handle_claims(&NOBODY, &mine, now);
    events(&mut lease);

    let yielding = BTreeMap::from([(rival, claim(address, Standing::Confirmed))]);
    lease.handle_claims(&yielding, &mine, now);
    assert_eq!(events(&mut lease), [], "it will move as soon as it hears of us");

    let insisting = BTreeMap::from([(rival, claim(address, Standing::Firm))]);
    let clash = LeaseEvent::Clash { address, with: rival };
    assert!(clash.is_loud());
    lease.handle_claims(&insisting, &mine, now);
    lease.handle_claims(&insisting, &mine, now);
    assert_eq!(events(&mut lease), [clash]);
    lease.handle_claims(&NOBODY, &mine, now);
    lease.handle_claims(&insisting, &mine, now);
    assert_eq!(events(&mut lease), [clash]);
    assert_eq!(lease.address(), Some(address));
}

#[test]
fn a_fixed_address_is_used_and_a_mistaken_copy_of_it_falls_back_to_a_draw() {
    let now = Instant::now();
    let fixed = v4("10.1.0.50");
    let with_fixed = |number| LeaseSettings { fixed: Some(fixed), ..settings(number, "10.1.0.0/16") };
    let (mut a, mut b) = (start(with_fixed(1), None, now), start(with_fixed(2), None, now));
    assert_eq!((a.address(), b.address()), (Some(fixed), Some(fixed)));
    let claims = BTreeMap::from([(node(1), a.claim().unwrap()), (node(2), b.claim().unwrap())]);
    a.handle_claims(&claims, &NONE_ASSIGNED, now);
    b.handle_claims(&claims, &NONE_ASSIGNED, now);
    let (winner, loser) = if rank(fixed, node(1)) < rank(fixed, node(2)) { (a, b) } else { (b, a) };
    assert_eq!(winner.address(), Some(fixed));
    let mut loser = loser;
    assert_ne!(loser.address(), Some(fixed));
    let to = winner.settings().id;
    assert_eq!(events(&mut loser), [LeaseEvent::FixedLost { fixed, to }]);
    assert!(LeaseEvent::FixedLost { fixed, to }.is_loud());
}

#[test]
fn a_frozen_lease_outweighs_a_fixed_address_that_was_written_later() {
    let now = Instant::now();
    let remembered = Lease { mesh_id: MESH, v4: v4("10.1.3.4"), attempt: 0, confirmed: true, frozen: true };
    let fixed = v4("10.1.0.50");
    let with_fixed = LeaseSettings { fixed: Some(fixed), ..settings(1, "10.1.0.0/16") };
    let mut lease = start(with_fixed, Some(remembered), now);
    assert_eq!(lease.address(), Some(remembered.v4));
    assert_eq!(events(&mut lease), [LeaseEvent::FixedOverruled { fixed, assigned: remembered.v4 }]);
}

#[test]
fn settings_that_give_no_address_name_the_key() {
    for subnet in ["10.0.0.0/7", "10.1.0.0/27", "0.0.0.0/0", "10.1.0.1/32"] {
        let error = Pool::new(net(subnet), Drawer::Node).unwrap_err();
        assert!(error.to_string().contains("c3os.vpn.subnet"));
    }
    for address in ["10.2.0.1", "10.1.0.0", "10.1.255.255", "10.1.4.0", "10.1.4.255"] {
        let fixed = Some(v4(address));
        let settings = LeaseSettings { fixed, ..settings(1, "10.1.0.0/16") };
        let error = AddressLease::new(settings, None, Instant::now()).unwrap_err();
        assert_eq!(error, AddressError::Fixed { address: v4(address), subnet: net("10.1.0.0/16") });
        assert!(error.to_string().contains("c3os.vpn.address"));
    }
}

#[test]
fn a_full_pool_leaves_a_node_without_address_until_one_is_given_up() {
    let now = Instant::now();
    let observers = Pool::new(net("10.1.0.0/26"), Drawer::Observer).unwrap();
    let settings = LeaseSettings { pool: observers, ..settings(1, "10.1.0.0/26") };
    let mut lease = start(settings, None, now);
    let mut claims: BTreeMap<NodeId, Claim> = ["10.1.0.60", "10.1.0.61", "10.1.0.62"]
        .iter()
        .zip(10..)
        .map(|(address, number)| (node(number), claim(v4(address), Standing::Confirmed)))
        .collect();
    lease.handle_claims(&claims, &NONE_ASSIGNED, now);
    lease.handle_claims(&claims, &NONE_ASSIGNED, now);
    assert_eq!((lease.address(), lease.claim(), lease.lease()), (None, None, None));
    let told = events(&mut lease);
    assert_eq!(told.iter().filter(|event| **event == LeaseEvent::Exhausted).count(), 1);

    claims.remove(&node(11));
    lease.handle_claims(&claims, &NONE_ASSIGNED, now);
    assert_eq!(lease.address(), Some(v4("10.1.0.61")));
}

#[test]
fn addresses_of_known_nodes_never_change() {
    // Computed by another SHA-256 (Python's hashlib).
    let drawn = |subnet, drawer, attempt| {
        candidate(MESH, node(1), attempt, &Pool::new(net(subnet), drawer).unwrap()).to_string()
    };
    assert_eq!(drawn("10.1.0.0/16", Drawer::Node, 0), "10.1.102.131");
    assert_eq!(drawn("10.1.0.0/16", Drawer::Node, 1), "10.1.210.233");
    assert_eq!(drawn("10.1.0.0/16", Drawer::Observer, 0), "10.1.246.131");
    assert_eq!(drawn("192.168.7.64/26", Drawer::Node, 0), "192.168.7.87");
    assert_eq!(ula_prefix(MESH).to_string(), "fdac:e056:25da::/48");
    assert_eq!(ula(MESH, node(1)).to_string(), "fdac:e056:25da:d198:d25a:295e:1e49:c878");
}

#[test]
fn a_claim_is_small_and_survives_fields_of_a_later_version() {
    let claim = claim(v4("10.1.2.3"), Standing::Confirmed);
    let bytes = minicbor_serde::to_vec(claim).unwrap();
    assert!(bytes.len() <= 48, "{} bytes", bytes.len());
    assert_eq!(minicbor_serde::from_slice::<Claim>(&bytes).unwrap(), claim);

    #[derive(serde::Serialize)]
    struct Later {
        v4: Ipv4Addr,
        confirmed: bool,
        colour: &'static str,
    }
    let bytes = minicbor_serde::to_vec(Later { v4: claim.v4, confirmed: true, colour: "blue" }).unwrap();
    assert_eq!(minicbor_serde::from_slice::<Claim>(&bytes).unwrap(), claim);
}

#[test]
fn a_subnet_that_this_machine_reaches_otherwise_is_refused_with_the_setting_to_change() {
    let local = |owner: &str, text: &str| LocalNet { owner: owner.to_owned(), net: net(text) };
    let machine = [
        local("default route", "0.0.0.0/0"),
        local("tun9", "128.0.0.0/1"),
        local("eth0", "192.168.1.0/24"),
        local("c3os0", "10.1.0.0/16"),
        local("docker0", "172.17.0.0/16"),
    ];
    assert_eq!(overlap(net("10.1.0.0/16"), "c3os0", &machine), None);

    let refused = overlap(net("192.168.0.0/16"), "c3os0", &machine).unwrap();
    assert_eq!(refused.with, local("eth0", "192.168.1.0/24"));
    assert_eq!(
        refused.to_string(),
        "the overlay's subnet 192.168.0.0/16 overlaps 192.168.1.0/24 of eth0: set `c3os.vpn.subnet` to a free one \
         (on this machine 10.1.0.0/16 is), the same on every machine"
    );

    let company = [local("eth0", "10.1.4.0/24"), local("route via 10.1.4.1", "10.0.0.0/8")];
    let refused = overlap(net("10.1.0.0/16"), "c3os0", &company).unwrap();
    assert_eq!(refused.with, company[0], "the most specific one is named");
    assert_eq!(refused.free, Some(net("172.27.0.0/16")));
    let everywhere = [local("a", "10.0.0.0/8"), local("b", "172.16.0.0/12")];
    assert_eq!(overlap(net("10.1.0.0/16"), "c3os0", &everywhere).unwrap().free, None);
}

/// Nodes whose claims travel in any order. Virtual time, no network.
struct Crowd {
    leases: Vec<AddressLease>,
    heard: Vec<BTreeMap<NodeId, Claim>>,
    assignments: BTreeMap<NodeId, Ipv4Addr>,
    now: Instant,
}

#[derive(Debug, Clone)]
enum Step {
    /// What the first says now reaches the second.
    Hear(usize, usize),
    Wait(Duration),
    /// The agent restarts with its disk.
    Restart(usize),
    /// The lead assigns a node what it holds.
    Assign(usize),
}

fn steps(waiting: bool) -> impl Strategy<Value = Vec<Step>> {
    let hear = (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Step::Hear(from, to));
    let others = prop_oneof![
        (0_u64..1500).prop_map(|ms| Step::Wait(Duration::from_millis(ms))),
        any::<usize>().prop_map(Step::Restart),
        any::<usize>().prop_map(Step::Assign),
    ];
    let step = if waiting { prop_oneof![8 => hear, 2 => others].boxed() } else { hear.boxed() };
    prop::collection::vec(step, 0..200)
}

impl Crowd {
    /// Nodes in a subnet so small that nearly all of them collide at first.
    fn new(size: u8, fixed: u8) -> Self {
        let now = Instant::now();
        let lease = |number: u8| {
            let fixed = (number < fixed).then(|| Ipv4Addr::new(10, 9, 0, 5 + number / 2));
            start(LeaseSettings { fixed, ..settings(number, "10.9.0.0/26") }, None, now)
        };
        let heard = vec![BTreeMap::new(); size.into()];
        Self { leases: (0..size).map(lease).collect(), heard, assignments: BTreeMap::new(), now }
    }

    fn step(&mut self, step: &Step) {
        let size = self.leases.len();
        match step {
            Step::Hear(from, to) => self.hear(from % size, to % size),
            Step::Wait(time) => {
                self.now += *time;
                for lease in &mut self.leases {
                    lease.handle_timeout(self.now);
                }
            }
            Step::Restart(which) => {
                let lease = &mut self.leases[which % size];
                *lease = start(lease.settings().clone(), lease.lease(), self.now);
            }
            Step::Assign(which) => {
                let lease = &self.leases[which % size];
                let free = |v4: &Ipv4Addr| !self.assignments.values().any(|assigned| assigned == v4);
                if let Some(v4) = lease.address().filter(free) {
                    self.assignments.entry(lease.settings().id).or_insert(v4);
                }
            }
        }
    }

    fn hear(&mut self, from: usize, to: usize) {
        if let Some(claim) = self.leases[from].claim() {
            self.heard[to].insert(self.leases[from].settings().id, claim);
        }
        self.decide(to);
    }

    fn decide(&mut self, who: usize) {
        self.leases[who].handle_claims(&self.heard[who], &self.assignments, self.now);
    }

    fn claims(&self) -> Vec<Option<Claim>> {
        self.leases.iter().map(AddressLease::claim).collect()
    }

    /// Everybody hears everybody until nobody has anything new to say.
    fn settle(&mut self) {
        for _ in 0..200 {
            let before = self.claims();
            let said = self.leases.iter().filter_map(|lease| Some((lease.settings().id, lease.claim()?)));
            self.heard.fill(said.collect());
            for who in 0..self.leases.len() {
                self.decide(who);
            }
            if self.claims() == before {
                return;
            }
        }
        panic!("claims do not come to rest");
    }

    fn addresses(&self) -> Vec<Option<Ipv4Addr>> {
        self.leases.iter().map(AddressLease::address).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_exchange_ends_with_one_address_for_each(
        size in 2_u8..40,
        fixed in 0_u8..6,
        steps in steps(true),
    ) {
        let mut crowd = Crowd::new(size, fixed);
        let mut frozen = BTreeMap::new();
        for step in &steps {
            crowd.step(step);
            for lease in crowd.leases.iter().filter(|lease| lease.standing() == Some(Standing::Assigned)) {
                let first = *frozen.entry(lease.settings().id).or_insert(lease.address());
                prop_assert_eq!(lease.address(), first, "frozen never moves");
            }
        }
        crowd.settle();
        crowd.step(&Step::Wait(STILL_TIME));
        crowd.settle();
        let addresses = crowd.addresses();
        let distinct: BTreeSet<_> = addresses.iter().flatten().collect();
        prop_assert_eq!(distinct.len(), addresses.len(), "{:?}", addresses);
        for lease in &crowd.leases {
            prop_assert!(lease.standing() >= Some(Standing::Confirmed));
            prop_assert!(lease.settings().pool.is_usable(lease.address().unwrap()));
            let assigned = crowd.assignments.get(&lease.settings().id).copied();
            prop_assert!(assigned.is_none() || assigned == lease.address());
        }
    }

    #[test]
    fn who_gets_what_does_not_depend_on_who_was_heard_first(
        size in 2_u8..40,
        one in steps(false),
        other in steps(false),
    ) {
        let end = |steps: &[Step]| {
            let mut crowd = Crowd::new(size, 0);
            for step in steps {
                crowd.step(step);
            }
            crowd.settle();
            crowd.addresses()
        };
        prop_assert_eq!(end(&one), end(&other));
    }

    #[test]
    fn a_frozen_address_stays_whatever_is_heard(
        facts in prop::collection::vec((any::<u8>(), 0_u8..8, any::<bool>(), any::<bool>(), any::<bool>()), 0..30),
    ) {
        let now = Instant::now();
        let mine = v4("10.1.0.3");
        let remembered = Lease { mesh_id: MESH, v4: mine, attempt: 0, confirmed: true, frozen: true };
        let mut lease = start(settings(1, "10.1.0.0/16"), Some(remembered), now);
        let (mut claims, mut assignments) = (BTreeMap::new(), BTreeMap::new());
        for (id, last, confirmed, firm, assigned) in facts {
            let v4 = Ipv4Addr::new(10, 1, 0, last);
            claims.insert(node(id), Claim { v4, attempt: 0, confirmed, firm });
            if assigned {
                assignments.insert(node(id), v4);
            }
            lease.handle_claims(&claims, &assignments, now);
            lease.handle_timeout(now + STILL_TIME);
            prop_assert_eq!(lease.address(), Some(mine));
        }
    }

    #[test]
    fn every_draw_is_a_usable_address_of_its_own_part_of_the_subnet(
        id: [u8; 32],
        attempt: u32,
        base: u32,
        prefix in 8_u8..=26,
    ) {
        let subnet = Ipv4Net::new(Ipv4Addr::from(base), prefix).unwrap();
        let (nodes, observers) =
            (Pool::new(subnet, Drawer::Node).unwrap(), Pool::new(subnet, Drawer::Observer).unwrap());
        for (pool, other) in [(nodes, observers), (observers, nodes)] {
            let address = candidate(MESH, NodeId::from_bytes(id), attempt, &pool);
            prop_assert!(pool.is_usable(address) && pool.draws(address) && !other.draws(address));
            prop_assert!(subnet.contains(&address));
            prop_assert!(!matches!(address.octets()[3], 0 | 255));
            prop_assert!(address != subnet.network() && address != subnet.broadcast());
        }
        let last = subnet.broadcast();
        let observed = candidate(MESH, NodeId::from_bytes(id), attempt, &observers);
        prop_assert!(Ipv4Net::new(last, prefix + 4).unwrap().contains(&observed));
    }

    #[test]
    fn every_node_has_an_ipv6_address_of_its_own_in_the_mesh(mesh: [u8; 32], a: [u8; 32], b: [u8; 32]) {
        let mesh = MeshId::from_bytes(mesh);
        let (a, b) = (NodeId::from_bytes(a), NodeId::from_bytes(b));
        prop_assert!(ula_prefix(mesh).contains(&ula(mesh, a)));
        prop_assert_eq!(ula(mesh, a).octets()[0], 0xfd);
        prop_assert_eq!(a == b, ula(mesh, a) == ula(mesh, b));
    }
}
