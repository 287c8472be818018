//! The documentation, read aloud.
//!
//! Every question is answered from the JSON from the beginning: who is at the other address, which policies select this
//! pod, what each of their rules says. Nothing is prepared and nothing is remembered between two questions.

mod cilium;
mod kubernetes;
mod labels;
mod place;

use crate::feature::Feature;
use crate::world::{Attachment, Enforcement, Flow, World};
pub use place::Place;
use serde_json::Value;

/// What one end of a flow says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// No policy isolates this end, and none denies the flow.
    Open,
    Allow,
    Deny,
}

/// Both ends; `None` where the end is no pod attached here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    pub egress: Option<End>,
    pub ingress: Option<End>,
}

impl Judgement {
    /// Does a policy isolate an end, or deny?
    pub fn is_judged(self) -> bool {
        [self.egress, self.ingress].into_iter().flatten().any(|end| end != End::Open)
    }

    pub fn is_allowed(self) -> bool {
        self.egress != Some(End::Deny) && self.ingress != Some(End::Deny)
    }
}

/// The naive evaluator.
#[derive(Debug, Clone, Copy)]
pub struct Naive<'a> {
    world: &'a World,
    /// A sentence that is not read, to measure whether anything depends on it.
    unread: Option<Feature>,
}

/// One end of one flow: the pod that is judged, and whom and what about.
struct Case<'a> {
    flow: Flow,
    egress: bool,
    /// The pod whose policy this is: its object, and its namespace.
    subject: &'a Value,
    namespace: &'a str,
    /// The other end.
    peer: Place<'a>,
    /// The pod at the destination, whichever end that is: named ports are its.
    destination: Option<&'a Value>,
}

impl Case<'_> {
    fn peer_address(&self) -> std::net::IpAddr {
        if self.egress { self.flow.to } else { self.flow.from }
    }
}

impl<'a> Naive<'a> {
    pub fn new(world: &'a World) -> Self {
        Naive { world, unread: None }
    }

    /// The same evaluator, leaving out the sentence behind a feature where that is a sentence and not an object.
    pub fn unread(world: &'a World, feature: Feature) -> Self {
        Naive { world, unread: Some(feature) }
    }

    fn reads(&self, feature: Feature) -> bool {
        self.unread != Some(feature)
    }

    pub fn judge(&self, flow: Flow) -> Judgement {
        let attached = |address| self.world.attached.iter().find(|pod| pod.addresses.contains(&address));
        let source = attached(flow.from);
        let destination = attached(flow.to);
        Judgement {
            egress: source.map(|pod| self.end(pod, flow, true)),
            ingress: destination.map(|pod| self.end(pod, flow, false)),
        }
    }

    /// The pods attached here that a policy's spec selects.
    pub(crate) fn subjects(&self, policy: &Value, spec: &Value) -> Vec<&'a Attachment> {
        let is_subject = |pod: &Value| {
            if cilium::is_cilium(policy) {
                return self.is_subject(spec, cilium::namespace_of(policy), pod);
            }
            policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
                && labels::selects(&spec["podSelector"], &pod["metadata"]["labels"])
        };
        let attached = self.world.attached.iter();
        attached.filter(|pod| self.pod_named(&pod.namespace, &pod.name).is_some_and(is_subject)).collect()
    }

    /// Does this one rule of a policy match the flow, for the pod it is judged for?
    pub(crate) fn rule_matches(
        &self,
        policy: &Value,
        rule: &Value,
        pod: &'a Attachment,
        flow: Flow,
        egress: bool,
    ) -> bool {
        let case = self.case(pod, flow, egress);
        if cilium::is_cilium(policy) {
            return self.speaks_of(rule, cilium::namespace_of(policy), &case);
        }
        self.is_kubernetes_rule(rule, &case)
    }

    fn case(&self, attachment: &'a Attachment, flow: Flow, egress: bool) -> Case<'a> {
        let Some(subject) = self.pod_named(&attachment.namespace, &attachment.name) else {
            panic!("{}/{} is attached and has no object", attachment.namespace, attachment.name);
        };
        let peer = self.place(if egress { flow.to } else { flow.from });
        Case {
            flow,
            egress,
            subject,
            namespace: &attachment.namespace,
            peer,
            destination: if egress { peer.pod() } else { Some(subject) },
        }
    }

    fn end(&self, attachment: &'a Attachment, flow: Flow, egress: bool) -> End {
        let case = self.case(attachment, flow, egress);
        if self.world.enforcement == Enforcement::Never {
            return End::Open;
        }
        let kubernetes = self.kubernetes(&case);
        let cilium = self.cilium(&case);
        let isolated =
            kubernetes.isolated || cilium.isolated || self.world.enforcement == Enforcement::Always;
        // A pod may always reach itself. Its own node may always reach it, unless a rule denies just that.
        let itself = attachment.addresses.contains(&case.peer_address());
        let own_node = case.peer == Place::Host
            && if egress { self.world.pod_to_host } else { self.reads(Feature::OwnNode) };
        if cilium.denied && !itself {
            End::Deny
        } else if !isolated {
            End::Open
        } else if itself || own_node || kubernetes.allowed || cilium.allowed {
            End::Allow
        } else {
            End::Deny
        }
    }
}

/// What all policies of one API say of one case.
#[derive(Debug, Default)]
struct Said {
    isolated: bool,
    allowed: bool,
    denied: bool,
}
