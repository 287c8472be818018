//! The second stage: which flow is this packet of, and may it pass?
//!
//! The cache answers what it can; for the rest the connection table is asked, policy judges what is new or was judged under
//! older policy, and the answer is remembered.

use super::engine::{Engine, Packet, Step};
use super::mailbox::DropSample;
use crate::flow::{CacheEntry, Entry, FlowId, Judged, NewFlow, Side, Touch, may_open};
use crate::forward::route;
use crate::packet::{FlowKey, L4, Payload};
use crate::policy::{self, Refusal};
use crate::snapshot::{Port, Snapshot};
use penstock_api::{DropReason, PortId};

impl Engine {
    /// Finds the flow a packet belongs to, or makes it. The answer is [`Step::Forward`] or [`Step::Drop`].
    #[inline]
    pub(super) fn lookup(&mut self, snapshot: &Snapshot, packet: &Packet, hits: &mut u64) -> Step {
        let Payload::Flow(l4) = &packet.parsed.payload else { return Step::Drop(DropReason::InvalidState) };
        if let Some(&CacheEntry { flow, stamp, side, out, judged, .. }) =
            self.parts.cache.get_guessed(packet.guess, packet.hash, &packet.parsed.key)
            && is_current(snapshot, judged, side, packet.port, out)
        {
            match self.parts.conntrack.touch_current(flow, stamp, side, l4, packet.len, self.now_ms) {
                Ok(Some(Touch::Tracked)) => {
                    *hits += 1;
                    self.consider(packet, l4, flow, side, out);
                    return Step::Forward { out };
                }
                // Another flow by now, or one that ends here.
                Ok(None | Some(Touch::Reopen)) => self.ended = true,
                Err(reason) => return Step::Drop(reason),
            }
        }
        self.missed(snapshot, packet, l4)
    }

    #[cold]
    fn missed(&mut self, snapshot: &Snapshot, packet: &Packet, l4: &L4) -> Step {
        self.parts.counters.cache_misses.add(1);
        match self.decide(snapshot, packet, l4) {
            Ok(out) => Step::Forward { out },
            Err(reason) => Step::Drop(reason),
        }
    }

    /// The slow road: conntrack, policy, remember.
    fn decide(&mut self, snapshot: &Snapshot, packet: &Packet, l4: &L4) -> Result<PortId, DropReason> {
        let key = &packet.parsed.key;
        let from = snapshot.port(packet.port).ok_or(DropReason::PortGone)?;
        let to = route(snapshot, from, key.destination_address())?;
        if let Some((flow, side)) = self.parts.conntrack.find(key, packet.hash)
            && self.renew(snapshot, flow, side, from, to, packet)?
        {
            match self.parts.conntrack.touch(flow, side, l4, packet.len, self.now_ms)? {
                Touch::Tracked => {
                    self.remember(packet, flow, side, to.id);
                    self.consider(packet, l4, flow, side, to.id);
                    return Ok(to.id);
                }
                // Judged below as the first packet of another flow, whose tuple this one gives up if that is allowed.
                Touch::Reopen => {
                    self.admit_flow(snapshot, from, to, packet, l4)?;
                    self.parts.conntrack.remove(flow);
                    return self.open(snapshot, from, to, packet, l4);
                }
            }
        }
        self.open(snapshot, from, to, packet, l4)
    }

    /// Judges a known flow again if what is in force has changed. False: the flow was between other endpoints and is gone.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn renew(
        &mut self,
        snapshot: &Snapshot,
        flow: FlowId,
        side: Side,
        from: &Port,
        to: &Port,
        packet: &Packet,
    ) -> Result<bool, DropReason> {
        let (source, destination) = match side {
            Side::Forward => (from, to),
            Side::Reply => (to, from),
        };
        let entry = self.parts.conntrack.entry(flow);
        if !is_between(entry, source, destination) {
            self.parts.conntrack.remove(flow);
            return Ok(false);
        }
        let judged = judged_now(snapshot, source, destination);
        if entry.judged() == judged {
            return Ok(true);
        }
        let first = entry.key();
        let question = policy::question(&first, true);
        match policy::judge(snapshot, source, destination, &first, question) {
            Ok(allowed) => {
                self.parts.conntrack.rejudged(flow, judged, allowed.egress_rule, allowed.ingress_rule);
                Ok(true)
            }
            Err(refusal) => {
                self.parts.conntrack.remove(flow);
                Err(self.refuse(refusal, packet))
            }
        }
    }

    /// May this packet open a flow, and does policy let it?
    pub(super) fn admit_flow(
        &mut self,
        snapshot: &Snapshot,
        from: &Port,
        to: &Port,
        packet: &Packet,
        l4: &L4,
    ) -> Result<policy::Allowed, DropReason> {
        let key = &packet.parsed.key;
        may_open(key, l4)?;
        let question = policy::question(key, false);
        policy::judge(snapshot, from, to, key, question).map_err(|refusal| self.refuse(refusal, packet))
    }

    pub(super) fn open(
        &mut self,
        snapshot: &Snapshot,
        from: &Port,
        to: &Port,
        packet: &Packet,
        l4: &L4,
    ) -> Result<PortId, DropReason> {
        let allowed = self.admit_flow(snapshot, from, to, packet, l4)?;
        let key = packet.parsed.key;
        let reply_key = key.reversed();
        let reply_hash = match packet.reply_hash {
            0 => self.parts.conntrack.hash(&reply_key),
            known => known,
        };
        let flow = self.parts.conntrack.insert_hashed(
            &NewFlow {
                key,
                reply_key,
                source: from.endpoint,
                destination: to.endpoint,
                source_port: from.id,
                destination_port: to.id,
                judged: judged_now(snapshot, from, to),
                egress_rule: allowed.egress_rule,
                ingress_rule: allowed.ingress_rule,
                l4: *l4,
            },
            [packet.hash, reply_hash],
            self.now_ms,
        )?;
        match self.parts.conntrack.touch(flow, Side::Forward, l4, packet.len, self.now_ms)? {
            Touch::Tracked => {
                self.remember(packet, flow, Side::Forward, to.id);
                Ok(to.id)
            }
            Touch::Reopen => Err(DropReason::InvalidState),
        }
    }

    pub(super) fn remember(&mut self, packet: &Packet, flow: FlowId, side: Side, out: PortId) {
        let entry = self.parts.conntrack.entry(flow);
        let remembered = CacheEntry {
            key: packet.parsed.key,
            flow,
            stamp: entry.stamp(),
            judged: entry.judged(),
            out,
            side,
            flags: 0,
        };
        self.parts.cache.insert(packet.hash, remembered);
    }

    /// An ICMP error passes when it is about a flow that is allowed, comes from the flow's other end and goes to the one that
    /// sent what it quotes.
    #[cold]
    pub(super) fn relate(&mut self, snapshot: &Snapshot, packet: &Packet) -> Step {
        let Payload::IcmpError { about } = &packet.parsed.payload else {
            return Step::Drop(DropReason::UnrelatedIcmp);
        };
        match self.relate_under(snapshot, packet, about) {
            Ok(out) => Step::Forward { out },
            Err(reason) => Step::Drop(reason),
        }
    }

    pub(super) fn relate_under(
        &mut self,
        snapshot: &Snapshot,
        packet: &Packet,
        about: &FlowKey,
    ) -> Result<PortId, DropReason> {
        let unrelated = DropReason::UnrelatedIcmp;
        if packet.parsed.key.destination != about.source {
            return Err(unrelated);
        }
        let (flow, side) = self.parts.conntrack.find(about, packet.hash).ok_or(unrelated)?;
        let from = snapshot.port(packet.port).ok_or(DropReason::PortGone)?;
        let to = route(snapshot, from, about.source_address())?;
        // The quoted packet went from `to` to `from`. Somebody else's word about it changes nothing, not even the table.
        let (source, destination) = match side {
            Side::Forward => (to, from),
            Side::Reply => (from, to),
        };
        if !is_between(self.parts.conntrack.entry(flow), source, destination)
            || !self.renew(snapshot, flow, side, to, from, packet)?
        {
            return Err(unrelated);
        }
        Ok(to.id)
    }

    /// Notes who refused, for the operator: every time in the counters, now and then with all that is known of the packet.
    #[cold]
    pub(super) fn refuse(&mut self, refusal: Refusal, packet: &Packet) -> DropReason {
        if let Some(direction) = refusal.direction {
            self.parts.counters.port(refusal.judge).refused[direction as usize].add(1);
        }
        if self.samples_left > 0 {
            self.samples_left -= 1;
            // Full: counted all the same.
            let _ = self.parts.mailbox.drop_events.push(DropSample {
                reason: refusal.reason,
                port: packet.port,
                key: packet.parsed.key,
                judge: refusal.judge,
                direction: refusal.direction,
                rule: refusal.rule,
            });
        }
        refusal.reason
    }
}

/// Is this a flow from one endpoint to another, as they are attached now?
#[inline]
fn is_between(flow: &Entry, source: &Port, destination: &Port) -> bool {
    flow.source() == source.endpoint
        && flow.destination() == destination.endpoint
        && flow.source_port() == source.id
        && flow.destination_port() == destination.id
}

/// Was the flow judged under what is in force now, between the endpoints that are there now? No two ports and no two endpoints
/// ever have a revision in common.
#[inline]
fn is_current(snapshot: &Snapshot, judged: Judged, side: Side, from: PortId, out: PortId) -> bool {
    let (source, destination) = match side {
        Side::Forward => (from, out),
        Side::Reply => (out, from),
    };
    let (Some(source), Some(destination)) = (snapshot.port(source), snapshot.port(destination)) else {
        return false;
    };
    judged == judged_now(snapshot, source, destination)
}

/// What a flow from one port to another is judged under at present.
#[inline]
pub(super) fn judged_now(snapshot: &Snapshot, source: &Port, destination: &Port) -> Judged {
    Judged { source: source.revision, destination: destination.revision, forwarding: snapshot.forwarding }
}
