//! The fast policy lookup: compiled policy, laid out so that a packet's question is answered in a handful of steps.
//!
//! **Problem.** [`penstock_api::reference`] says what an [`Artefact`] means by scanning everything. A packet that opens a flow
//! cannot wait for a scan of ten thousand rules, and an attacker must not be able to make the answer slow by choosing
//! addresses, ports, or (being a tenant) rules.
//!
//! **Shape.** A [`Policy`] is one artefact, whole and immutable, shared by all workers and replaced as a whole.
//!
//! | question | answered by | steps |
//! |---|---|---|
//! | [`classify`](Policy::classify): whose address is this? | hash probe, then disjoint intervals | 1 + `ceil(log16 2p)` for `p` prefixes, at most 8 for IPv4 |
//! | [`judge`](Policy::judge): may this peer use this port? | per stage: two interval sets and a hash probe | per set at most 8 intervals scanned, or `ceil(log16 2e)` for `e` entries about this peer |
//! | [`pod`](Policy::pod): which programs has this endpoint? | two hash probes | |
//!
//! A program has one stage, and one more for each tier that holds a `Pass`. So the number of rules, policies, pods and
//! identities is nowhere a factor: it only enters as the logarithm above, four steps for 10,000 entries about one and the
//! same peer. Maps are keyed with random numbers drawn for each `Policy`: addresses and ids are chosen by strangers.
//!
//! **Promise.** The same answer as the reference, the rule named included. A lookup does not allocate, lock, panic or do
//! I/O. A program that does not exist denies.
//!
//! **Memory** is linear in the artefact, which is kept too: a set holds at most two intervals (20 bytes each) per entry and
//! class named by it, twice that for stages with established-only entries; an address costs 12 bytes for IPv4, 32 for IPv6,
//! before the slack of hash maps. Building takes `O(n log n)` of the same measure.
//!
//! **Owner.** Whoever holds the `Policy`; it is built off the packet path, and should be dropped off it too.
#![forbid(unsafe_code)]

mod addresses;
mod boundaries;
mod near;
mod ports;
mod program;
mod steps;

use ahash::RandomState;
use penstock_api::artefact::{Action, Artefact, ArtefactError, Peers, PodKey, Program};
use penstock_api::ids::{Generation, IdentityId, PolicyId, ProgramId, RuleId};
use penstock_api::reference::{Answer, FlowAnswer, Question};
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

type Map<K, V> = HashMap<K, V, RandomState>;

/// An identity as the tables of one [`Policy`] know it. Means nothing to another policy, not even of the same artefact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(pub u32);

impl Class {
    /// Of every identity that no entry names: only entries for everyone match it.
    pub const UNNAMED: Class = Class(0);
}

/// Who is at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub identity: IdentityId,
    pub class: Class,
}

impl Peer {
    /// At an address of which nothing is known.
    pub const UNKNOWN: Peer = Peer { identity: IdentityId::UNKNOWN, class: Class::UNNAMED };
}

/// What an endpoint of this node has to know of policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// The pod's main class. An address of the pod may be in another one: as a *peer*, an endpoint is who
    /// [`Policy::classify`] says its address is.
    pub identity: IdentityId,
    /// Of `identity`.
    pub class: Class,
    pub ingress: ProgramId,
    pub egress: ProgramId,
}

/// One whole artefact, ready for lookup. See the [crate] documentation.
pub struct Policy {
    artefact: Artefact,
    classes: Map<IdentityId, Class>,
    /// Index: [`Class`], less one.
    named: Box<[IdentityId]>,
    addresses: addresses::Addresses,
    /// Indices into `artefact.pods` by namespace and name: several only when pods of one name differ in uid.
    pods: Map<Box<str>, Map<Box<str>, Vec<u32>>>,
    /// Index into `artefact.pods` by address.
    pods_at: Map<IpAddr, u32>,
    /// Index: [`ProgramId`]; gives the index into `programs`, where equal programs are one.
    program_of: Box<[u32]>,
    programs: Box<[program::Compiled]>,
}

impl Policy {
    /// Checks and compiles an artefact. Takes time linear in it, up to a logarithm: not for the packet path.
    pub fn build(artefact: Artefact) -> Result<Policy, ArtefactError> {
        artefact.validate()?;
        let hasher = RandomState::new();

        let mut named: Vec<IdentityId> = artefact
            .programs
            .iter()
            .flat_map(|program| &program.entries)
            .filter_map(|entry| match &entry.peers {
                Peers::Any => None,
                Peers::Identities(ids) => Some(ids),
            })
            .flatten()
            .copied()
            .collect();
        named.sort_unstable();
        named.dedup();
        let mut classes = Map::with_capacity_and_hasher(named.len(), hasher.clone());
        classes.extend(named.iter().copied().zip((1..).map(Class)));
        let class_of = |identity| class_in(&classes, identity);

        let mut programs = Vec::new();
        let mut seen: Map<&Program, u32> = Map::with_hasher(hasher.clone());
        let program_of = artefact
            .programs
            .iter()
            .map(|program| {
                *seen.entry(program).or_insert_with(|| {
                    programs.push(program::Compiled::new(program, class_of, &hasher));
                    programs.len() as u32 - 1
                })
            })
            .collect();

        let mut pods: Map<Box<str>, Map<Box<str>, Vec<u32>>> = Map::with_hasher(hasher.clone());
        let mut pods_at = Map::with_hasher(hasher.clone());
        for (index, pod) in (0u32..).zip(&artefact.pods) {
            let of_namespace = pods
                .entry(pod.pod.namespace.as_str().into())
                .or_insert_with(|| Map::with_hasher(hasher.clone()));
            of_namespace.entry(pod.pod.name.as_str().into()).or_default().push(index);
            for address in &pod.addresses {
                pods_at.entry(*address).or_insert(index);
            }
        }

        Ok(Policy {
            addresses: addresses::Addresses::new(&artefact.pods, &artefact.prefixes, class_of, &hasher),
            named: named.into_boxed_slice(),
            pods,
            pods_at,
            program_of,
            programs: programs.into_boxed_slice(),
            classes,
            artefact,
        })
    }

    #[must_use]
    pub fn generation(&self) -> Generation {
        self.artefact.generation
    }

    /// What was compiled, for names and explanations.
    #[must_use]
    pub fn artefact(&self) -> &Artefact {
        &self.artefact
    }

    /// Who is at an address: the artefact's pods first, then the longest prefix. What the packet path asks.
    #[inline]
    #[must_use]
    pub fn classify(&self, address: IpAddr) -> Peer {
        self.addresses.find(address)
    }

    /// [`classify`](Policy::classify), the identity only.
    #[inline]
    #[must_use]
    pub fn identity_of(&self, address: IpAddr) -> IdentityId {
        self.classify(address).identity
    }

    /// The class of an identity; [`Class::UNNAMED`] when no entry names it.
    #[inline]
    #[must_use]
    pub fn class_of(&self, identity: IdentityId) -> Class {
        class_in(&self.classes, identity)
    }

    /// The policy for an attached endpoint: same pod, and every one of its addresses was taken into account.
    /// `None`: the control plane does not know it yet, and [`isolated`](Policy::isolated) is its program.
    #[must_use]
    pub fn pod(&self, pod: &PodKey, addresses: &[IpAddr]) -> Option<EndpointPolicy> {
        let candidates = self.pods.get(pod.namespace.as_str())?.get(pod.name.as_str())?;
        let found =
            candidates.iter().filter_map(|index| self.artefact.pods.get(*index as usize)).find(|p| {
                p.pod.is_same_pod(pod) && addresses.iter().all(|address| p.addresses.contains(address))
            })?;
        Some(self.endpoint(found))
    }

    /// The policy of the artefact's pod at an address.
    #[must_use]
    pub fn pod_at(&self, address: IpAddr) -> Option<EndpointPolicy> {
        let pod = self.artefact.pods.get(*self.pods_at.get(&address)? as usize)?;
        Some(self.endpoint(pod))
    }

    /// A program that denies everything, for endpoints not known yet. No program of the artefact has its id.
    #[must_use]
    pub fn isolated(&self) -> ProgramId {
        ProgramId(self.program_of.len() as u32)
    }

    /// One direction's verdict about a peer. A program that does not exist denies.
    #[inline]
    #[must_use]
    pub fn judge(&self, program: ProgramId, peer: Class, question: Question) -> Answer {
        match self.compiled(program) {
            Some(program) => program.judge(peer, question),
            None => program::DENIED,
        }
    }

    /// What a flow between two addresses meets: each end that is a pod of the artefact judges the other, and a pod may always
    /// reach itself.
    #[must_use]
    pub fn judge_flow(&self, source: IpAddr, destination: IpAddr, question: Question) -> FlowAnswer {
        if let (Some(one), Some(other)) = (self.pods_at.get(&source), self.pods_at.get(&destination))
            && one == other
        {
            let itself = Some(Answer { action: Action::Allow, rule: None });
            return FlowAnswer { egress: itself, ingress: itself };
        }
        let judge = |program, peer| self.judge(program, self.classify(peer).class, question);
        FlowAnswer {
            egress: self.pod_at(source).map(|pod| judge(pod.egress, destination)),
            ingress: self.pod_at(destination).map(|pod| judge(pod.ingress, source)),
        }
    }

    /// Does the program deny what no entry matches?
    #[must_use]
    pub fn is_isolating(&self, program: ProgramId) -> bool {
        self.source(program).is_none_or(|program| program.isolated)
    }

    /// The objects that select endpoints with this program: whom to name when nothing matched.
    #[must_use]
    pub fn selected_by(&self, program: ProgramId) -> &[PolicyId] {
        self.source(program).map_or(&[], |program| &program.selected_by)
    }

    /// Rules that match all but one of peer, protocol and port, in the order of the program: where to look when a refusal
    /// surprises. Scans and allocates.
    #[must_use]
    pub fn nearest(&self, program: ProgramId, peer: Class, question: Question) -> Vec<RuleId> {
        let identity = (peer.0 as usize).checked_sub(1).and_then(|index| self.named.get(index)).copied();
        self.source(program).map_or_else(Vec::new, |program| near::nearest(program, identity, question))
    }

    fn endpoint(&self, pod: &penstock_api::artefact::PodPolicy) -> EndpointPolicy {
        EndpointPolicy {
            identity: pod.identity,
            class: self.class_of(pod.identity),
            ingress: pod.ingress,
            egress: pod.egress,
        }
    }

    #[inline]
    fn compiled(&self, program: ProgramId) -> Option<&program::Compiled> {
        self.programs.get(*self.program_of.get(program.index())? as usize)
    }

    fn source(&self, program: ProgramId) -> Option<&Program> {
        self.artefact.programs.get(program.index())
    }
}

fn class_in(classes: &Map<IdentityId, Class>, identity: IdentityId) -> Class {
    classes.get(&identity).copied().unwrap_or(Class::UNNAMED)
}

impl fmt::Debug for Policy {
    /// The sizes; the contents would fill a screen a thousand times.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("generation", &self.artefact.generation)
            .field("pods", &self.artefact.pods.len())
            .field("prefixes", &self.artefact.prefixes.len())
            .field("classes", &self.named.len())
            .field("programs", &self.programs.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
