//! The line from objects to artefact, and what of it is kept from one artefact to the next.
//!
//! Nothing kept here decides anything: every part is a function of the [`State`], and is thrown away when something it was
//! made of has changed. Starting with an empty memo gives the same artefact to the byte, which the tests do after every event.
//!
//! | kept | thrown away when |
//! |---|---|
//! | policies as rules | the policy changes, or what names in it stand for |
//! | the roster of this node | endpoints, nodes or the pods of endpoints change |
//! | an *epoch*: rules in force, and what they find true of each address | other parts of policies select local pods |
//! | of an epoch: one address | its owner or the owner's labels change |
//! | of an epoch: identities and programs | somebody gives an answer that nobody gave before, or nobody gives one any more |
//!
//! So a change of one pod's labels costs one look at that pod, and a pass over the table of addresses to write it down.

use super::force::{Force, PartId, Who};
use super::identity::Classes;
use super::limits::{Limits, Overflow};
use super::peers::{Answers, GroupId, Member, Peers, Site};
use super::program::{Cache, Writer};
use super::roster::{Owner, Roster};
use super::rule::Policy;
use super::select::{Place, Subjects};
use super::state::{self, Changes, Source, State};
use super::{Options, cilium, kubernetes};
use crate::objects::{ObjectKey, Pod};
use ipnet::IpNet;
use penstock_api::artefact::{
    AddressIdentity, Artefact, Direction, Identity, PodKey, PodPolicy, PrefixIdentity, Program, SCHEMA,
};
use penstock_api::ids::{Generation, IdentityId, ProgramId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Debug, Clone, Default)]
pub(crate) struct Memo {
    /// False: nothing is kept, whatever the changes say.
    is_begun: bool,
    policies: BTreeMap<ObjectKey, Arc<Policy>>,
    subjects: Subjects,
    roster: Roster,
    epoch: Option<Epoch>,
}

/// As long as the same rules are in force.
#[derive(Debug, Clone)]
struct Epoch {
    options: Options,
    in_force: Vec<(Arc<Policy>, usize)>,
    force: Force,
    peers: Peers,
    api_servers: BTreeSet<IpAddr>,
    cuts: Vec<(IpNet, Placed)>,
    /// Addresses that somebody has who is no local pod.
    table: BTreeMap<IpAddr, Placed>,
    /// What is true of those in `cuts` and `table`, and how many give each answer.
    live: HashMap<Member, usize>,
    written: Option<Written>,
}

/// As long as the same answers are given.
#[derive(Debug, Clone)]
struct Written {
    members: HashSet<Member>,
    answers: HashSet<Answers>,
    classes: Classes,
    programs: Cache,
    identities: Vec<Identity>,
}

#[derive(Debug, Clone, PartialEq)]
struct Placed {
    answers: Answers,
    site: Site,
    /// Of the pods that claim the address.
    groups: Vec<GroupId>,
}

impl Placed {
    fn members(&self) -> impl Iterator<Item = Member> {
        let member = |group| Member { answers: self.answers, group, site: self.site };
        let nobody = self.groups.is_empty().then(|| member(None));
        self.groups.iter().map(move |group| member(Some(*group))).chain(nobody)
    }
}

/// A local pod, and what there is to say of it.
struct Here<'a> {
    pod: &'a Pod,
    addresses: &'a BTreeSet<IpAddr>,
    ingress: Vec<PartId>,
    egress: Vec<PartId>,
    placed: Vec<Placed>,
}

impl Memo {
    pub(crate) fn artefact(
        &mut self,
        state: &State,
        mut changes: Changes,
        limits: &Limits,
    ) -> Result<Artefact, Overflow> {
        self.convert(state, &mut changes);
        if changes.roster || !self.is_begun {
            let roster = Roster::new(state);
            roster.compare(&self.roster, state, &mut changes);
            self.roster = roster;
        }
        self.is_begun = true;

        let local: Vec<(&Pod, &BTreeSet<IpAddr>)> = self
            .roster
            .local
            .iter()
            .filter_map(|(name, addresses)| Some((state.pods.get(name)?, addresses)))
            .collect();
        let selecting: Vec<Vec<Place>> =
            local.iter().map(|(pod, _)| self.subjects.selecting(state, pod)).collect();
        let in_force: BTreeSet<Place> = selecting.iter().flatten().copied().collect();
        let numbers: HashMap<Place, PartId> = in_force.iter().copied().zip((0..).map(PartId)).collect();

        let is_same = |epoch: &&mut Epoch| {
            let kept = epoch.in_force.iter().map(|(policy, index)| (Arc::as_ptr(policy), *index));
            let now = in_force.iter().map(|place| (Arc::as_ptr(self.subjects.policy(*place)), place.1));
            epoch.options == state.options && !epoch.is_littered() && kept.eq(now)
        };
        let epoch = match self.epoch.as_mut().filter(is_same) {
            Some(_) => self.epoch.as_mut().expect("it was there a line ago"),
            None => {
                let parts = in_force.iter().map(|place| (self.subjects.policy(*place).clone(), place.1));
                changes.addresses = state.pods.claimed().chain(self.roster.addresses()).collect();
                changes.directory = true;
                self.epoch.insert(Epoch::new(parts.collect(), state.options.clone()))
            }
        };
        epoch.follow(state, &self.roster, changes);

        let sides = |places: &[Place], speaks: fn(&super::rule::Part) -> bool| {
            let spoken = places.iter().filter(|place| speaks(self.subjects.part(**place)));
            spoken.map(|place| numbers[place]).collect()
        };
        let here = local.into_iter().zip(&selecting).map(|((pod, addresses), places)| Here {
            pod,
            addresses,
            ingress: sides(places, |part| part.ingress.speaks()),
            egress: sides(places, |part| part.egress.speaks()),
            placed: addresses.iter().map(|address| epoch.pods(state, &[pod], *address)).collect(),
        });
        let here: Vec<Here<'_>> = here.collect();
        epoch.write(&here, limits)
    }

    /// Policies as rules: those that changed, and those that speak of what changed by its name.
    fn convert(&mut self, state: &State, changes: &mut Changes) {
        let mut keys = std::mem::take(&mut changes.policies);
        let all = || state.policies.iter().chain(&state.lingering);
        if !self.is_begun {
            keys.extend(all().map(|(key, _)| key.clone()));
        } else if changes.directory {
            let asking = all().filter(|(_, source)| match source {
                Source::Cilium(policy) => cilium::asks(policy),
                Source::Kubernetes(_) => false,
            });
            keys.extend(asking.map(|(key, _)| key.clone()));
        }
        let mut has_changed = false;
        for key in keys {
            let Some(source) = state.policies.get(&key).or_else(|| state.lingering.get(&key)) else {
                has_changed |= self.policies.remove(&key).is_some();
                continue;
            };
            let policy = rules(state, source);
            if self.policies.get(&key).is_none_or(|known| **known != policy) {
                self.policies.insert(key, Arc::new(policy));
                has_changed = true;
            }
        }
        if has_changed {
            self.subjects = Subjects::new(&self.policies);
        }
    }
}

pub(crate) fn rules(state: &State, source: &Source) -> Policy {
    match source {
        Source::Kubernetes(policy) => kubernetes::rules(policy),
        Source::Cilium(policy) => {
            let directory = cilium::Directory {
                cidr_groups: &state.cidr_groups,
                services: &state.services,
                slices: &state.slices,
                nodes: &state.nodes,
            };
            cilium::rules(policy, directory)
        }
    }
}

impl Epoch {
    fn new(in_force: Vec<(Arc<Policy>, usize)>, options: Options) -> Self {
        let force = Force::new(&in_force, &options);
        let mut peers = Peers::default();
        let mut live = HashMap::new();
        let mut cuts = Vec::with_capacity(force.cuts.cuts.len());
        for (net, cover) in &force.cuts.cuts {
            let site = Site { cover: *cover, is_api_server: false };
            let answers = peers.place(&force, Who::outsider(net.addr().is_ipv6()), site);
            let placed = Placed { answers, site, groups: Vec::new() };
            count(&mut live, &placed);
            cuts.push((*net, placed));
        }
        Epoch {
            options,
            in_force,
            force,
            peers,
            api_servers: BTreeSet::new(),
            cuts,
            table: BTreeMap::new(),
            live,
            written: None,
        }
    }

    /// Most of what is remembered is of groups that have nobody in them any more.
    fn is_littered(&self) -> bool {
        self.peers.len() > 4 * self.table.len() + 10_000
    }

    /// Brings the table of addresses up to date.
    fn follow(&mut self, state: &State, roster: &Roster, changes: Changes) {
        let mut addresses = changes.addresses;
        if changes.directory && self.force.tells_api_server {
            let now: BTreeSet<IpAddr> = state::endpoints(&state.slices, "default", "kubernetes").collect();
            addresses.extend(self.api_servers.symmetric_difference(&now));
            self.api_servers = now;
        }
        for namespace in &changes.namespaces {
            self.peers.forget_namespace(namespace);
            addresses.extend(state.pods.of_namespace(namespace).flat_map(|pod| &pod.addresses));
        }
        for address in addresses {
            let placed = match roster.owner(state, address) {
                Owner::Pods(pods) => Some(self.pods(state, &pods, address)),
                Owner::Unknown => Some(self.place(Who::Init, address)),
                Owner::Host => Some(self.place(Who::Host, address)),
                Owner::Node => Some(self.place(Who::RemoteNode, address)),
                Owner::Outsider if self.api_servers.contains(&address) => {
                    Some(self.place(Who::outsider(address.is_ipv6()), address))
                }
                Owner::Outsider => None,
            };
            let before = match placed {
                Some(placed) => {
                    count(&mut self.live, &placed);
                    self.table.insert(address, placed)
                }
                None => self.table.remove(&address),
            };
            before.iter().flat_map(Placed::members).for_each(|member| forget(&mut self.live, member));
        }
    }

    fn site(&self, address: IpAddr) -> Site {
        Site { cover: self.force.cuts.covering(address), is_api_server: self.api_servers.contains(&address) }
    }

    fn place(&mut self, who: Who, address: IpAddr) -> Placed {
        let site = self.site(address);
        Placed { answers: self.peers.place(&self.force, who, site), site, groups: Vec::new() }
    }

    fn pods(&mut self, state: &State, pods: &[&Pod], address: IpAddr) -> Placed {
        let site = self.site(address);
        let claimants: Vec<(GroupId, &Pod)> =
            pods.iter().map(|pod| (self.peers.group(&self.force, pod, &state.names), *pod)).collect();
        let answers = self.peers.pods(&self.force, &claimants, site);
        Placed { answers, site, groups: claimants.into_iter().map(|(group, _)| group).collect() }
    }

    fn write(&mut self, here: &[Here<'_>], limits: &Limits) -> Result<Artefact, Overflow> {
        let local = here.iter().flat_map(|here| &here.placed).flat_map(Placed::members);
        let members: HashSet<Member> = self.live.keys().copied().chain(local).collect();
        let answers: HashSet<Answers> = members.iter().map(|member| member.answers).collect();
        let mut written = match self.written.take().filter(|written| written.answers == answers) {
            Some(written) => written,
            None => Written {
                classes: Classes::new(&self.force, &mut self.peers, answers.iter().copied(), limits)?,
                answers,
                programs: Cache::default(),
                // So that they are described.
                members: HashSet::new(),
                identities: Vec::new(),
            },
        };
        if written.members != members {
            written.identities = describe(&self.force, &self.peers, &written.classes, &members);
            written.members = members;
        }

        if written.programs.len() > 4 * here.len() + 64 {
            written.programs = Cache::default();
        }
        let mut writer =
            Writer::new(&self.force, &written.classes, &self.options, &mut written.programs, limits);
        let mut programs: Vec<Arc<Program>> = Vec::new();
        let mut numbers: HashMap<*const Program, ProgramId> = HashMap::new();
        let mut number = |program: Arc<Program>| {
            *numbers.entry(Arc::as_ptr(&program)).or_insert_with(|| {
                programs.push(program);
                ProgramId(programs.len() as u32 - 1)
            })
        };
        let mut pods = Vec::with_capacity(here.len());
        for Here { pod, addresses, ingress, egress, placed } in here {
            let identities: Vec<IdentityId> =
                placed.iter().map(|placed| written.classes.number(placed.answers)).collect();
            // Attached without an address: nothing can be said to it or about it.
            let Some(identity) = identities.first().copied() else { continue };
            let others = addresses.iter().zip(&identities).filter(|(_, other)| **other != identity);
            pods.push(PodPolicy {
                pod: PodKey {
                    namespace: pod.namespace.clone(),
                    name: pod.name.clone(),
                    uid: pod.uid.clone(),
                },
                addresses: addresses.iter().copied().collect(),
                identity,
                other_identities: others
                    .map(|(address, identity)| AddressIdentity { address: *address, identity: *identity })
                    .collect(),
                ingress: number(writer.program(pod, Direction::Ingress, ingress)?),
                egress: number(writer.program(pod, Direction::Egress, egress)?),
            });
        }
        let prefixes = self.prefixes(&written.classes);
        let artefact = Artefact {
            schema: SCHEMA,
            generation: Generation(0),
            identities: written.identities.clone(),
            prefixes,
            policies: self.force.policies.clone(),
            rules: self.force.rules.clone(),
            programs: programs.iter().map(|program| Program::clone(program)).collect(),
            pods,
        };
        self.written = Some(written);
        // The limits were kept on the way too, so that nothing could grow without bounds, but what is kept from before may
        // have been made under others.
        limits.check(&artefact)?;
        Ok(artefact)
    }

    /// Cuts and addresses in order. A prefix that says no more than the one around it is left out.
    fn prefixes(&self, classes: &Classes) -> Vec<PrefixIdentity> {
        let mut prefixes: Vec<PrefixIdentity> = Vec::with_capacity(self.cuts.len() + self.table.len());
        let mut around: Vec<PrefixIdentity> = Vec::new();
        let mut add = |prefix: IpNet, placed: &Placed| {
            while around.last().is_some_and(|outer| !outer.prefix.contains(&prefix)) {
                around.pop();
            }
            let this = PrefixIdentity { prefix, identity: classes.number(placed.answers) };
            if around.last().is_some_and(|outer| outer.identity == this.identity) {
                return;
            }
            prefixes.push(this);
            if prefix.prefix_len() < prefix.max_prefix_len() {
                around.push(this);
            }
        };
        let mut cuts = self.cuts.iter().peekable();
        for (address, placed) in &self.table {
            let prefix = IpNet::from(*address);
            while let Some((cut, outside)) = cuts.next_if(|(cut, _)| *cut <= prefix) {
                // Somebody has the very address.
                if *cut != prefix {
                    add(*cut, outside);
                }
            }
            add(prefix, placed);
        }
        cuts.for_each(|(cut, outside)| add(*cut, outside));
        prefixes
    }
}

fn count(live: &mut HashMap<Member, usize>, placed: &Placed) {
    placed.members().for_each(|member| *live.entry(member).or_default() += 1);
}

fn forget(live: &mut HashMap<Member, usize>, member: Member) {
    if let Some(number) = live.get_mut(&member) {
        *number -= 1;
        if *number == 0 {
            live.remove(&member);
        }
    }
}

/// What each identity stands for: the labels that rules ask for and all its members have, and the CIDRs that cover them.
fn describe(force: &Force, peers: &Peers, classes: &Classes, members: &HashSet<Member>) -> Vec<Identity> {
    let mut shared: BTreeMap<IdentityId, BTreeSet<String>> = BTreeMap::new();
    for member in members {
        let own = peers.describe(force, *member);
        match shared.get_mut(&classes.number(member.answers)) {
            Some(shared) => shared.retain(|label| own.contains(label)),
            None => drop(shared.insert(classes.number(member.answers), own)),
        }
    }
    for (answers, id) in &classes.numbers {
        let labels = shared.entry(*id).or_default();
        labels.extend(answers.who.labels().iter().map(|label| format!("reserved:{label}")));
    }
    shared.entry(IdentityId::UNKNOWN).or_default().insert("reserved:unknown".to_owned());
    let finish =
        |(id, labels): (IdentityId, BTreeSet<String>)| Identity { id, labels: labels.into_iter().collect() };
    shared.into_iter().map(finish).collect()
}
