//! Policy judged without a switch: objects in, and for each question who may talk to whom, and why.
//!
//! The problem: an operator wants to know what policy will do before it does it. The shape: the objects are compiled by the
//! compiler the control plane runs, once for each node, with every pod attached to its own node; each end of a connection is
//! judged there by the lookup the switch runs. Nothing here knows what a policy means.
//!
//! The promise: what a switch with these objects would do with the first packet of that connection. Where the objects leave
//! something open (a pod without an address), the gap is filled as [`places`] says, and a notice says so.

mod explain;
mod gaps;
mod places;
mod question;
mod running;

pub use explain::{Explanation, Near, Reasons};
pub use gaps::Gap;
pub use question::{Service, ServiceError};
pub use running::Running;

use crate::compile::{Compiler, Options};
use crate::objects::Object;
use explain::Asked;
use penstock_api::DropReason;
use penstock_api::artefact::{Action, Artefact, ArtefactError, Direction, PodKey};
use penstock_api::ids::{EndpointId, ProgramId, RuleId};
use penstock_api::judge::{Node, Ruling};
use penstock_api::reference::Answer as Ruled;
use penstock_lookup::Policy;
use places::{Name, Places};
use serde::Serialize;
use std::cell::OnceCell;
use std::fmt;
use std::net::IpAddr;

/// Objects, and the nodes they make.
#[derive(Debug)]
pub struct World {
    compiler: Compiler,
    places: Places,
    gaps: Vec<Gap>,
    /// Compiled when first asked. Index: as `places.nodes`.
    nodes: Vec<OnceCell<Policy>>,
}

/// Why a question cannot be asked of these objects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndError {
    #[error("{field} {text:?} is neither a pod as namespace/name nor an IP address")]
    Neither { field: &'static str, text: String },
    #[error("{field} {text:?}: there is no such pod among the objects")]
    NoSuchPod { field: &'static str, text: String },
    #[error(
        "{field} {text:?}: no such pod has policy on this node; a pod of another node, or one outside, is asked about by its address"
    )]
    NotHere { field: &'static str, text: String },
    #[error("{field} {text:?}: this pod has ended and has no address any more, so nothing reaches it")]
    Ended { field: &'static str, text: String },
    #[error("{from:?} and {to:?} have no addresses of one family: nothing can be sent between them")]
    Families { from: String, to: String },
}

/// The two ends of a connection, found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    pub from: End,
    pub to: End,
    pub service: Service,
}

impl Flow {
    /// From a pod to itself: no switch ever sees it.
    #[must_use]
    pub fn is_to_itself(&self) -> bool {
        self.from.pod.is_some() && self.from.pod == self.to.pod
    }
}

/// One end: a pod that policy may select, or just an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub address: IpAddr,
    /// `None`: outside, a node, or a pod on its node's network.
    pub pod: Option<PodKey>,
}

/// What becomes of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    pub verdict: Verdict,
    pub egress: EndAnswer,
    pub ingress: EndAnswer,
    /// Why the switch dropped it, where that was not for policy. Only frames can say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped: Option<DropReason>,
    /// Fields that nothing enforces yet, of policies that select one of the ends.
    #[serde(rename = "notEnforced", skip_serializing_if = "Vec::is_empty")]
    pub not_enforced: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allow,
    Deny,
}

/// What one end says to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndAnswer {
    pub verdict: EndVerdict,
    /// The policies that select the end in this direction.
    pub policies: Vec<String>,
    /// The rule that decided; `None` when none matched.
    pub rule: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndVerdict {
    Allow,
    Deny,
    /// No policy isolates this end in this direction.
    Open,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        })
    }
}

impl fmt::Display for EndVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndVerdict::Allow => "allow",
            EndVerdict::Deny => "deny",
            EndVerdict::Open => "open",
        })
    }
}

impl EndAnswer {
    /// Nobody's policy: the end is no pod.
    #[must_use]
    pub fn open() -> EndAnswer {
        EndAnswer { verdict: EndVerdict::Open, policies: Vec::new(), rule: None }
    }
}

impl Answer {
    fn of(egress: EndAnswer, ingress: EndAnswer, gaps: &[Gap]) -> Answer {
        let refuses = |end: &EndAnswer| end.verdict == EndVerdict::Deny;
        let verdict = if refuses(&egress) || refuses(&ingress) { Verdict::Deny } else { Verdict::Allow };
        let concerns = |gap: &&Gap| {
            gap.concerns(&egress, Direction::Egress) || gap.concerns(&ingress, Direction::Ingress)
        };
        let not_enforced = gaps.iter().filter(concerns).map(ToString::to_string).collect();
        Answer { verdict, egress, ingress, dropped: None, not_enforced }
    }
}

/// What a pod says of itself: no policy may cut it off from itself.
const SELF: &str = "builtin own-pod";

impl World {
    #[must_use]
    pub fn new(objects: impl IntoIterator<Item = Object>) -> World {
        World::under(objects, Options::default())
    }

    /// As nodes see it whose control planes run with these options.
    #[must_use]
    pub fn under(objects: impl IntoIterator<Item = Object>, options: Options) -> World {
        let mut objects: Vec<Object> = objects.into_iter().collect();
        let places = Places::new(&objects);
        let gaps = gaps::of(&objects);
        for object in &mut objects {
            if let Object::Pod(pod) = object
                && let Some(placed) = places.pods.get(&(pod.namespace.clone(), pod.name.clone()))
            {
                pod.addresses.clone_from(&placed.addresses);
            }
        }
        let mut compiler = Compiler::new();
        compiler.set_options(options);
        compiler.reset(objects);
        let nodes = places.nodes.iter().map(|_| OnceCell::new()).collect();
        World { compiler, places, gaps, nodes }
    }

    /// What was assumed where the objects leave something open.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.places.notices
    }

    /// Fields of the objects that nothing enforces yet.
    #[must_use]
    pub fn not_enforced(&self) -> &[Gap] {
        &self.gaps
    }

    /// Every pod that has traffic, as `namespace/name`, in the order of their names.
    #[must_use]
    pub fn pods(&self) -> Vec<String> {
        let live = self.places.pods.keys();
        let mut names: Vec<&Name> = live.chain(self.places.on_host_network()).collect();
        names.sort();
        names.into_iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect()
    }

    /// Finds both ends. Where they have addresses of both families it is IPv4, but for ICMPv6.
    ///
    /// # Errors
    /// When an end is not there, or they have no family in common.
    pub fn flow(&self, from: &str, to: &str, service: Service) -> Result<Flow, EndError> {
        let sources = self.addresses("from", from)?;
        let destinations = self.addresses("to", to)?;
        let (from, to) = choose(&sources, &destinations, service)
            .ok_or_else(|| EndError::Families { from: from.to_owned(), to: to.to_owned() })?;
        Ok(Flow { from: self.end(from), to: self.end(to), service })
    }

    /// What becomes of a connection.
    ///
    /// # Errors
    /// When the compiler made an artefact that the switch would refuse: a defect.
    pub fn judge(&self, flow: &Flow) -> Result<Answer, ArtefactError> {
        let ruling = |own: &End, peer: &End, direction| -> Result<Option<Ruling>, ArtefactError> {
            let Some((policy, program)) = self.program(own, direction)? else { return Ok(None) };
            let peer = policy.classify(peer.address).class;
            let Ruled { action, rule } = policy.judge(program, peer, flow.service.question());
            // What this version cannot carry out it refuses, as the switch does.
            Ok(Some(Ruling { allowed: action == Action::Allow, rule }))
        };
        let egress = ruling(&flow.from, &flow.to, Direction::Egress)?;
        let ingress = ruling(&flow.to, &flow.from, Direction::Ingress)?;
        self.answer(flow, egress, ingress)
    }

    /// Puts what both ends did into words. An end that is no pod does nothing.
    ///
    /// # Errors
    /// When the compiler made an artefact that the switch would refuse: a defect.
    pub fn answer(
        &self,
        flow: &Flow,
        egress: Option<Ruling>,
        ingress: Option<Ruling>,
    ) -> Result<Answer, ArtefactError> {
        let end = |own: &End, direction, ruling: Option<Ruling>| -> Result<EndAnswer, ArtefactError> {
            let (Some((policy, program)), Some(ruling)) = (self.program(own, direction)?, ruling) else {
                return Ok(EndAnswer::open());
            };
            let answer = in_words(policy, program, ruling);
            Ok(if flow.is_to_itself() { itself(answer) } else { answer })
        };
        let egress = end(&flow.from, Direction::Egress, egress)?;
        let ingress = end(&flow.to, Direction::Ingress, ingress)?;
        Ok(Answer::of(egress, ingress, &self.gaps))
    }

    /// What becomes of a connection, and why.
    ///
    /// # Errors
    /// When the compiler made an artefact that the switch would refuse: a defect.
    pub fn explain(&self, flow: &Flow) -> Result<Explanation, ArtefactError> {
        let answer = self.judge(flow)?;
        let reasons = |own, peer: &End, direction, said| -> Result<Reasons, ArtefactError> {
            let Some((policy, program)) = self.program(own, direction)? else {
                return Ok(Reasons::default());
            };
            let question = flow.service.question();
            Ok(Asked { policy, program, direction, peer: peer.address, question }.reasons(said))
        };
        let egress = reasons(&flow.from, &flow.to, Direction::Egress, &answer.egress)?;
        let ingress = reasons(&flow.to, &flow.from, Direction::Ingress, &answer.ingress)?;
        Ok(Explanation { answer, egress, ingress })
    }

    /// The node of an end: `None` when it is no pod.
    #[must_use]
    pub fn node_of(&self, end: &End) -> Option<usize> {
        let pod = end.pod.as_ref()?;
        self.places.pods.get(&(pod.namespace.clone(), pod.name.clone())).map(|placed| placed.node)
    }

    /// A node as its switch knows it.
    ///
    /// # Errors
    /// When the compiler made an artefact that the switch would refuse: a defect.
    pub fn switch(&self, node: usize) -> Result<Node, ArtefactError> {
        Ok(Node {
            artefact: self.node(node)?.artefact().clone(),
            host_addresses: self.places.nodes[node].addresses.iter().copied().collect(),
        })
    }

    /// The policy an end is under, and its program. `None`: it is no pod.
    fn program(
        &self,
        end: &End,
        direction: Direction,
    ) -> Result<Option<(&Policy, ProgramId)>, ArtefactError> {
        let Some(node) = self.node_of(end) else { return Ok(None) };
        let policy = self.node(node)?;
        let program = match (policy.pod_at(end.address), direction) {
            (Some(pod), Direction::Egress) => pod.egress,
            (Some(pod), Direction::Ingress) => pod.ingress,
            // As the switch does with an endpoint it knows no policy for.
            (None, _) => policy.isolated(),
        };
        Ok(Some((policy, program)))
    }

    fn node(&self, node: usize) -> Result<&Policy, ArtefactError> {
        let cell = &self.nodes[node];
        if let Some(policy) = cell.get() {
            return Ok(policy);
        }
        let policy = Policy::build(self.artefact(node))?;
        Ok(cell.get_or_init(|| policy))
    }

    /// What the node's switch would be given.
    fn artefact(&self, node: usize) -> Artefact {
        let mut compiler = self.compiler.clone();
        compiler.set_host_addresses(self.places.nodes[node].addresses.iter().copied());
        let here = self.places.pods.iter().filter(|(_, placed)| placed.node == node);
        for (endpoint, (name, placed)) in (1..).zip(here) {
            let key = PodKey { uid: placed.uid.clone(), ..PodKey::new(&name.0, &name.1) };
            compiler.attach(EndpointId(endpoint), key, placed.addresses.iter().copied());
        }
        compiler.artefact()
    }

    fn addresses(&self, field: &'static str, text: &str) -> Result<Vec<IpAddr>, EndError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(vec![address.to_canonical()]);
        }
        let Some((namespace, name)) = text.split_once('/') else {
            return Err(EndError::Neither { field, text: text.to_owned() });
        };
        let name = (namespace.to_owned(), name.to_owned());
        if let Some(placed) = self.places.pods.get(&name) {
            return Ok(placed.addresses.clone());
        }
        match self.places.others.get(&name) {
            None => Err(EndError::NoSuchPod { field, text: text.to_owned() }),
            Some(other) if other.addresses.is_empty() => {
                Err(EndError::Ended { field, text: text.to_owned() })
            }
            Some(other) => Ok(other.addresses.clone()),
        }
    }

    fn end(&self, address: IpAddr) -> End {
        let pod = self.places.at.get(&address).map(|(namespace, name)| PodKey::new(namespace, name));
        End { address, pod }
    }
}

/// An address of each end, of one family: IPv4 where both have it, but for ICMPv6.
fn choose(from: &[IpAddr], to: &[IpAddr], service: Service) -> Option<(IpAddr, IpAddr)> {
    let families = if service.is_icmpv6() { [true, false] } else { [false, true] };
    let of = |addresses: &[IpAddr], v6: bool| addresses.iter().copied().find(|a| a.is_ipv6() == v6);
    families.into_iter().find_map(|v6| Some((of(from, v6)?, of(to, v6)?)))
}

/// The answer of a pod about itself.
fn itself(answer: EndAnswer) -> EndAnswer {
    match answer.verdict {
        EndVerdict::Open => answer,
        _ => EndAnswer { verdict: EndVerdict::Allow, rule: Some(SELF.to_owned()), ..answer },
    }
}

/// What one program did, with names.
fn in_words(policy: &Policy, program: ProgramId, ruling: Ruling) -> EndAnswer {
    let artefact = policy.artefact();
    let names = policy.selected_by(program).iter().filter_map(|id| artefact.policies.get(id.index()));
    EndAnswer {
        verdict: match ruling.allowed {
            true if policy.is_isolating(program) => EndVerdict::Allow,
            true => EndVerdict::Open,
            false => EndVerdict::Deny,
        },
        policies: names.map(ToString::to_string).collect(),
        rule: ruling.rule.and_then(|rule| rule_name(artefact, rule)),
    }
}

/// `NetworkPolicy shop/web spec.ingress[0]`.
#[must_use]
pub fn rule_name(artefact: &Artefact, rule: RuleId) -> Option<String> {
    let rule = artefact.rules.get(rule.index())?;
    let policy = artefact.policies.get(rule.policy.index())?;
    Some(match policy.kind.as_str() {
        "builtin" => policy.to_string(),
        _ => format!("{policy} {}", rule.path),
    })
}

#[cfg(test)]
mod tests;
