//! Which addresses may speak to which.
//!
//! What an address can never be is refused here, whoever sends it; whether it is the sender's own is the pipeline's question.

use crate::packet::{DropReason, FlowKey, L4, Payload};
use penstock_api::message::gateway;

/// What kind of address it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    /// One node somewhere.
    Unicast,
    /// The gateway every pod has.
    Gateway,
    /// IPv6 only: somebody on this very link.
    LinkLocal,
    /// Several at once: multicast, or IPv4's limited broadcast.
    Group,
    Unspecified,
    /// Loopback, class E, and what stands for an address of the other family: never on a wire.
    Never,
}

#[inline]
pub(super) fn of_v4(address: [u8; 4]) -> Scope {
    const GATEWAY: [u8; 4] = gateway::V4.octets();
    match address {
        [0, 0, 0, 0] => Scope::Unspecified,
        GATEWAY => Scope::Gateway,
        [224..=239, ..] | [255, 255, 255, 255] => Scope::Group,
        // Pods have addresses of their own: there is nobody to reach by a link-local one.
        [0 | 127 | 240..=255, ..] | [169, 254, ..] => Scope::Never,
        _ => Scope::Unicast,
    }
}

#[inline]
pub(super) fn of_v6(address: &[u8; 16]) -> Scope {
    const GATEWAY: [u8; 16] = gateway::V6.octets();
    match address {
        [0xff, ..] => Scope::Group,
        &GATEWAY => Scope::Gateway,
        [0xfe, 0x80..=0xbf, ..] => Scope::LinkLocal,
        // Site-local, deprecated by RFC 3879.
        [0xfe, 0xc0..=0xff, ..] => Scope::Never,
        // IPv4-compatible and IPv4-mapped, ::1 among them.
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, rest @ ..] if rest == &[0; 4] => Scope::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..] => {
            Scope::Never
        }
        _ => Scope::Unicast,
    }
}

/// Refuses packets between addresses that cannot speak to each other, by what they carry.
#[inline]
pub(super) fn check(
    (source, destination): (Scope, Scope),
    key: &FlowKey,
    payload: &Payload,
) -> Result<(), DropReason> {
    match (source, destination) {
        (Scope::Unicast, Scope::Unicast) if key.source != key.destination => Ok(()),
        _ => check_special((source, destination), key, payload),
    }
}

#[cold]
fn check_special(
    (source, destination): (Scope, Scope),
    key: &FlowKey,
    payload: &Payload,
) -> Result<(), DropReason> {
    use Scope::{Gateway, Group, LinkLocal, Never, Unicast, Unspecified};
    match (source, destination) {
        (Never | Group, _) | (_, Never | Unspecified) => Err(DropReason::Martian),
        _ if key.source == key.destination => Err(DropReason::Land),
        _ if matches!(payload, Payload::NeighbourSolicitation { .. }) => match source {
            Gateway => Err(DropReason::Martian),
            _ => Ok(()),
        },
        (_, Group) => Err(DropReason::Multicast),
        (Unicast | LinkLocal, Gateway) => match payload {
            Payload::Flow(L4::Echo { request: true }) => Ok(()),
            _ => Err(DropReason::Martian),
        },
        // What the switch of another node answered, on its way through the host. A pod that pretends is spoofing.
        (Gateway, Unicast | LinkLocal) => match payload {
            Payload::Flow(L4::Echo { request: false }) | Payload::IcmpError { .. } => Ok(()),
            _ => Err(DropReason::Martian),
        },
        _ => Err(DropReason::Martian),
    }
}
