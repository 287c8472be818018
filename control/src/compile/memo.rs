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
use super::peers::{Answers, GroupId, Member, Peers, Site, Traits};
use super::program::{Cache, Writer};
use super::roster::{Owner, Roster};
use super::rule::Policy;
use super::select::{Place, Subjects};
use super::state::{self, Changes, Source, State};
use super::{Options, cilium, kubernetes};
use crate::objects::{ObjectKey, Pod};
use ahash::{HashMap, HashSet};
use ipnet::IpNet;
use penstock_api::artefact::{
    AddressIdentity, Artefact, Direction, Identity, PodKey, PodPolicy, PrefixIdentity, Program, SCHEMA,
};
use penstock_api::ids::{Generation, IdentityId, ProgramId};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
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
    /// Those in `cuts` and `table`.
    live: Live,
    written: Option<Written>,
}

/// How many there are of each kind.
#[derive(Debug, Clone, Default)]
struct Live {
    members: HashMap<Member, usize>,
    answers: HashMap<Answers, usize>,
    /// A kind has come or gone since this was last looked at.
    have_members_changed: bool,
    have_answers_changed: bool,
}

impl Live {
    fn count(&mut self, placed: &Placed) {
        for member in placed.members() {
            self.have_members_changed |= count(&mut self.members, member);
            self.have_answers_changed |= count(&mut self.answers, member.answers);
        }
    }

    fn forget(&mut self, placed: &Placed) {
        for member in placed.members() {
            self.have_members_changed |= forget(&mut self.members, member);
            self.have_answers_changed |= forget(&mut self.answers, member.answers);
        }
    }
}

/// As long as the same answers are given.
#[derive(Debug, Clone)]
struct Written {
    /// Of local pods, besides those in the table.
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
        let mut live = Live::default();
        let mut cuts = Vec::with_capacity(force.cuts.cuts.len());
        for (net, cover) in &force.cuts.cuts {
            let site = Site { cover: *cover, is_api_server: false };
            let answers = peers.place(&force, Who::outsider(net.addr().is_ipv6()), site);
            let placed = Placed { answers, site, groups: Vec::new() };
            live.count(&placed);
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
            if placed.as_ref() == self.table.get(&address) {
                continue;
            }
            let before = match placed {
                Some(placed) => {
                    self.live.count(&placed);
                    self.table.insert(address, placed)
                }
                None => self.table.remove(&address),
            };
            before.iter().for_each(|placed| self.live.forget(placed));
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
        let members: HashSet<Member> = local.collect();
        let answers: HashSet<Answers> = members.iter().map(|member| member.answers).collect();
        let have_answers_changed = std::mem::take(&mut self.live.have_answers_changed);
        let have_members_changed = std::mem::take(&mut self.live.have_members_changed);
        let is_current = |written: &Written| !have_answers_changed && written.answers == answers;
        let mut written = match self.written.take().filter(is_current) {
            Some(mut written) => {
                if have_members_changed || written.members != members {
                    written.identities = self.describe(&written.classes, &members);
                    written.members = members;
                }
                written
            }
            None => {
                let all = self.live.answers.keys().chain(&answers).copied();
                let classes = Classes::new(&self.force, &mut self.peers, all, limits)?;
                let identities = self.describe(&classes, &members);
                Written { members, answers, classes, programs: Cache::default(), identities }
            }
        };

        if written.programs.len() > 4 * here.len() + 64 {
            written.programs = Cache::default();
        }
        let mut writer =
            Writer::new(&self.force, &written.classes, &self.options, &mut written.programs, limits);
        let mut programs: Vec<Arc<Program>> = Vec::new();
        let mut numbers: HashMap<*const Program, ProgramId> = HashMap::default();
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

    /// What each identity stands for: the labels that rules ask for and all its members have, and the CIDRs that cover them.
    fn describe(&self, classes: &Classes, local: &HashSet<Member>) -> Vec<Identity> {
        let mut shared: HashMap<IdentityId, Traits> = HashMap::default();
        for member in self.live.members.keys().chain(local) {
            match shared.entry(classes.number(member.answers)) {
                Entry::Occupied(mut traits) => self.peers.keep_common(&self.force, traits.get_mut(), *member),
                Entry::Vacant(nobody) => drop(nobody.insert(self.peers.traits(&self.force, *member))),
            }
        }
        let mut identities: BTreeMap<IdentityId, Vec<String>> = BTreeMap::new();
        for (id, traits) in &shared {
            identities.insert(*id, self.peers.describe(&self.force, traits));
        }
        for (answers, id) in &classes.numbers {
            let labels = identities.entry(*id).or_default();
            labels.extend(answers.who.labels().iter().map(|label| format!("reserved:{label}")));
        }
        identities.entry(IdentityId::UNKNOWN).or_default().push("reserved:unknown".to_owned());
        let finish = |(id, mut labels): (IdentityId, Vec<String>)| {
            labels.sort();
            labels.dedup();
            Identity { id, labels }
        };
        identities.into_iter().map(finish).collect()
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
            around.push(this);
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

/// One more. True: the first.
fn count<T: Eq + Hash>(all: &mut HashMap<T, usize>, one: T) -> bool {
    let number = all.entry(one).or_default();
    *number += 1;
    *number == 1
}

/// One less. True: it was the last.
fn forget<T: Eq + Hash>(all: &mut HashMap<T, usize>, one: T) -> bool {
    let Some(number) = all.get_mut(&one) else { return false };
    *number -= 1;
    let was_last = *number == 0;
    if was_last {
        all.remove(&one);
    }
    was_last
}

#[cfg(test)]
mod tests {
    use crate::compile::Compiler;
    use crate::load::load_text;
    use penstock_api::EndpointId;
    use penstock_api::artefact::PodKey;
    use std::path::Path;

    const ADDRESS: &str = "10.1.0.1";

    fn apply(compiler: &mut Compiler, text: &str) {
        let report = load_text(Path::new("test.yaml"), text);
        assert_eq!(report.errors, []);
        report.objects.into_iter().for_each(|loaded| compiler.apply(loaded.object));
    }

    /// A pod whose port `http` is this one.
    fn pod(name: &str, port: u16) -> String {
        let address = if name == "here" { ADDRESS } else { "10.1.0.2" };
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: a}}, spec: {{containers: [{{name: c, ports: \
             [{{name: http, containerPort: {port}}}]}}]}}, status: {{phase: Running, podIP: {address}}}}}"
        )
    }

    /// Here and far, and a policy about both that asks for a port by name.
    fn cluster(rule: &str) -> Compiler {
        let mut compiler = Compiler::new();
        let policy = format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, namespace: a}}, spec: \
             {{podSelector: {{}}, {rule}: [{{ports: [{{port: http}}]}}]}}}}"
        );
        apply(&mut compiler, &policy);
        apply(&mut compiler, &pod("here", 1));
        apply(&mut compiler, &pod("far", 1));
        compiler.attach(EndpointId(1), PodKey::new("a", "here"), [ADDRESS.parse().unwrap()]);
        drop(compiler.artefact());
        compiler
    }

    fn peers(compiler: &Compiler) -> usize {
        compiler.memo.borrow().epoch.as_ref().expect("there was an artefact").peers.len()
    }

    fn programs(compiler: &Compiler) -> usize {
        let memo = compiler.memo.borrow();
        memo.epoch.as_ref().and_then(|epoch| epoch.written.as_ref()).expect("it was written").programs.len()
    }

    #[test]
    fn what_a_change_does_not_speak_of_is_kept() {
        let mut compiler = cluster("egress");
        apply(&mut compiler, &pod("far", 2));
        drop(compiler.artefact());
        let before = peers(&compiler);
        apply(&mut compiler, &pod("far", 3));
        drop(compiler.artefact());
        assert!(
            peers(&compiler) > before,
            "the rules are the same: what they found true before is remembered"
        );

        let mut compiler = cluster("ingress");
        let before = programs(&compiler);
        apply(&mut compiler, &pod("here", 2));
        drop(compiler.artefact());
        assert!(programs(&compiler) > before, "who is who is the same: the programs before are remembered");
    }

    #[test]
    fn what_is_remembered_of_those_who_have_gone_does_not_pile_up() {
        let mut compiler = cluster("egress");
        for port in 1..12_000 {
            apply_far(&mut compiler, port);
            drop(compiler.artefact());
            assert!(peers(&compiler) < 10_020, "{}", peers(&compiler));
        }
        let mut compiler = cluster("ingress");
        for port in 1..200 {
            apply(&mut compiler, &pod("here", port));
            drop(compiler.artefact());
            assert!(programs(&compiler) < 75, "{}", programs(&compiler));
        }
    }

    /// As [`apply`] of the far pod, without reading text.
    fn apply_far(compiler: &mut Compiler, port: u16) {
        let name = ("a".to_owned(), "far".to_owned());
        let mut far = compiler.state.pods.get(&name).expect("it is there").clone();
        far.ports[0].port = port;
        compiler.apply(crate::objects::Object::Pod(far));
    }
}
