//! What one running switch enforces, asked as if it were files: its artefact, and nothing it has not been told.

use super::explain::{Asked, Explanation, Reasons};
use super::{Answer, End, EndAnswer, EndError, Flow, Service, choose, in_words, itself};
use penstock_api::artefact::{Action, Artefact, ArtefactError, Direction, PodKey};
use penstock_api::judge::Ruling;
use penstock_lookup::Policy;
use std::net::IpAddr;

/// The policy in force on one node.
#[derive(Debug)]
pub struct Running {
    policy: Policy,
}

impl Running {
    /// # Errors
    /// When a reference in the artefact leads nowhere, which no switch accepts.
    pub fn new(artefact: Artefact) -> Result<Running, ArtefactError> {
        Ok(Running { policy: Policy::build(artefact)? })
    }

    /// Finds both ends, as [`super::World::flow`] does. Pods of other nodes are known by their addresses only.
    ///
    /// # Errors
    /// When an end is not there, or they have no family in common.
    pub fn flow(&self, from: &str, to: &str, service: Service) -> Result<Flow, EndError> {
        let sources = self.addresses("from", from)?;
        let destinations = self.addresses("to", to)?;
        let (source, destination) = choose(&sources, &destinations, service)
            .ok_or_else(|| EndError::Families { from: from.to_owned(), to: to.to_owned() })?;
        Ok(Flow { from: self.end(source), to: self.end(destination), service })
    }

    /// What becomes of a connection, and why.
    #[must_use]
    pub fn explain(&self, flow: &Flow) -> Explanation {
        let (egress, for_egress) = self.judge(&flow.from, &flow.to, flow, Direction::Egress);
        let (ingress, for_ingress) = self.judge(&flow.to, &flow.from, flow, Direction::Ingress);
        Explanation { answer: Answer::of(egress, ingress, &[]), egress: for_egress, ingress: for_ingress }
    }

    fn judge(&self, own: &End, peer: &End, flow: &Flow, direction: Direction) -> (EndAnswer, Reasons) {
        let Some(pod) = self.policy.pod_at(own.address) else {
            return (EndAnswer::open(), Reasons::default());
        };
        let program = if direction == Direction::Egress { pod.egress } else { pod.ingress };
        let question = flow.service.question();
        let ruled = self.policy.judge(program, self.policy.classify(peer.address).class, question);
        let ruling = Ruling { allowed: ruled.action == Action::Allow, rule: ruled.rule };
        let mut answer = in_words(&self.policy, program, ruling);
        if flow.is_to_itself() {
            answer = itself(answer);
        }
        let asked = Asked { policy: &self.policy, program, direction, peer: peer.address, question };
        let reasons = asked.reasons(&answer);
        (answer, reasons)
    }

    fn addresses(&self, field: &'static str, text: &str) -> Result<Vec<IpAddr>, EndError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(vec![address.to_canonical()]);
        }
        let Some((namespace, name)) = text.split_once('/') else {
            return Err(EndError::Neither { field, text: text.to_owned() });
        };
        let pods = self.policy.artefact().pods.iter();
        let mut own = pods.filter(|pod| pod.pod.namespace == namespace && pod.pod.name == name);
        let pod = own.next().ok_or_else(|| EndError::NotHere { field, text: text.to_owned() })?;
        Ok(pod.addresses.clone())
    }

    fn end(&self, address: IpAddr) -> End {
        let pods = self.policy.artefact().pods.iter();
        let mut owners = pods.filter(|pod| pod.addresses.contains(&address));
        let pod = owners.next().map(|pod| PodKey::new(&pod.pod.namespace, &pod.pod.name));
        End { address, pod }
    }
}
