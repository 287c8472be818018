//! Sequences of segments, and what each must do.

use super::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

const S: u8 = bits::SYN;
const A: u8 = bits::ACK;
const F: u8 = bits::FIN;
const R: u8 = bits::RST;
const FWD: Side = Side::Forward;
const REP: Side = Side::Reply;

/// Side, flags, sequence, acknowledgement, payload; then the state after it, or why not.
type Step = (Side, u8, u32, u32, u16, Result<State, DropReason>);

const REFUSED: Result<State, DropReason> = Err(DropReason::InvalidState);

fn track(name: &str, isn: u32, steps: &[Step]) {
    let mut table = Conntrack::create(settings(4)).unwrap();
    let open = segment(S, isn, 0, 0);
    let id = table.insert(&new(key(protocol::TCP, 1, 2), 1, open), 0).unwrap();
    for (index, (side, flags, sequence, acknowledgement, len, expected)) in steps.iter().enumerate() {
        let l4 = segment(*flags, *sequence, *acknowledgement, *len);
        let frames = table.entry(id).frames(*side);
        let state = table.entry(id).state();
        let seen = table.touch(id, *side, &l4, 60, 0);
        let counted = table.entry(id).frames(*side) - frames;
        match expected {
            Ok(after) => {
                assert_eq!(seen, Ok(Touch::Tracked), "{name}, step {index}: {l4:?}");
                assert_eq!(table.entry(id).state(), *after, "{name}, step {index}: {l4:?}");
                assert_eq!(counted, 1);
            }
            Err(reason) => {
                assert_eq!(seen, Err(*reason), "{name}, step {index}: {l4:?}");
                assert_eq!((table.entry(id).state(), counted), (state, 0), "{name}: refused, yet changed");
            }
        }
    }
}

/// Client at 101, server at 501, after three segments.
fn established(more: &[Step]) -> Vec<Step> {
    let mut steps = vec![
        (FWD, S, 100, 0, 0, Ok(State::SynSent)),
        (REP, S | A, 500, 101, 0, Ok(State::SynReceived)),
        (FWD, A, 101, 501, 0, Ok(State::Established)),
    ];
    steps.extend_from_slice(more);
    steps
}

#[test]
fn opening() {
    use State::{Closed, Established, SynReceived, SynSent};
    track("nobody answers", 100, &[(FWD, S, 100, 0, 0, Ok(SynSent)), (FWD, S, 100, 0, 0, Ok(SynSent))]);
    track("refused", 100, &[(REP, R | A, 0, 101, 0, Ok(Closed))]);
    track("refused, with a number that answers nothing", 100, &[(REP, R | A, 0, 77, 0, REFUSED)]);
    track("a reset without acknowledgement before any answer", 100, &[(REP, R, 0, 0, 0, REFUSED)]);
    track("both sides open", 100, &[(REP, S, 500, 0, 0, REFUSED)]);
    track("data instead of an answer", 100, &[(REP, A, 500, 101, 10, REFUSED)]);
    track("the client goes on alone", 100, &[(FWD, A, 101, 501, 0, REFUSED), (FWD, A, 101, 0, 9, REFUSED)]);
    track(
        "every answer may come twice",
        100,
        &[
            (FWD, S, 100, 0, 0, Ok(SynSent)),
            (REP, S | A, 500, 101, 0, Ok(SynReceived)),
            (REP, S | A, 500, 101, 0, Ok(SynReceived)),
            (FWD, S, 100, 0, 0, Ok(SynReceived)),
            (FWD, A, 101, 501, 0, Ok(Established)),
            (REP, S | A, 500, 101, 0, Ok(Established)),
            (FWD, A, 101, 501, 0, Ok(Established)),
        ],
    );
    track(
        "an acknowledgement of nothing does not establish",
        100,
        &[
            (REP, S | A, 500, 101, 0, Ok(SynReceived)),
            (FWD, A, 101, 900_000, 0, REFUSED),
            (FWD, A, 101, 501, 0, Ok(Established)),
        ],
    );
    track(
        "data with the SYN, acknowledged without it",
        100,
        &[
            (FWD, S, 100, 0, 200, Ok(SynSent)),
            (REP, S | A, 500, 101, 0, Ok(SynReceived)),
            (FWD, A, 101, 501, 200, Ok(Established)),
        ],
    );
    track(
        "the server speaks before the handshake is complete",
        100,
        &[
            (REP, S | A, 500, 101, 0, Ok(SynReceived)),
            (REP, A, 501, 101, 1_000, Ok(SynReceived)),
            (FWD, A, 101, 501, 0, Ok(Established)),
        ],
    );
    track(
        "the scanner's way: a reset answers the answer",
        100,
        &[(REP, S | A, 500, 101, 0, Ok(SynReceived)), (FWD, R, 101, 0, 0, Ok(Closed))],
    );
    track(
        "the server remembers an older connection",
        100,
        &[
            (REP, A, 90_000, 70_000, 0, Ok(SynSent)),
            (FWD, R, 70_000, 0, 0, Ok(SynSent)),
            (FWD, S, 100, 0, 0, Ok(SynSent)),
            (REP, S | A, 500, 101, 0, Ok(SynReceived)),
        ],
    );
}

#[test]
fn impossible_flags() {
    for flags in [0, F, bits::PSH, bits::URG, F | bits::PSH | bits::URG] {
        track("without acknowledgement", 100, &established(&[(FWD, flags, 101, 0, 0, REFUSED)]));
        track("without acknowledgement", 100, &established(&[(REP, flags, 501, 0, 0, REFUSED)]));
    }
    track("the client answers like a server", 100, &established(&[(FWD, S | A, 101, 501, 0, REFUSED)]));
}

#[test]
fn a_syn_in_a_living_connection_changes_nothing_and_only_the_opener_may_send_it() {
    use State::Established;
    track("from the client", 100, &established(&[(FWD, S, 9_000_000, 0, 0, Ok(Established))]));
    track("from the server", 100, &established(&[(REP, S, 9_000_000, 0, 0, REFUSED)]));
    track(
        "the challenge settles it",
        100,
        &established(&[
            (FWD, S, 9_000_000, 0, 0, Ok(Established)),
            (REP, A, 501, 101, 0, Ok(Established)),
            (FWD, R, 101, 0, 0, Ok(State::Closed)),
        ]),
    );
}

#[test]
fn closing() {
    use State::{Closing, Established, TimeWait};
    track(
        "one after the other",
        100,
        &established(&[
            (FWD, A, 101, 501, 100, Ok(Established)),
            (REP, A, 501, 201, 0, Ok(Established)),
            (FWD, F | A, 201, 501, 0, Ok(Closing)),
            (REP, A, 501, 202, 0, Ok(Closing)),
            // Half closed: the other direction goes on.
            (REP, A, 501, 202, 1_000, Ok(Closing)),
            (FWD, A, 202, 1_501, 0, Ok(Closing)),
            (REP, F | A, 1_501, 202, 0, Ok(Closing)),
            (FWD, A, 202, 1_502, 0, Ok(TimeWait)),
            (REP, F | A, 1_501, 202, 0, Ok(TimeWait)),
            (FWD, A, 202, 1_502, 0, Ok(TimeWait)),
            (REP, A, 1_502, 202, 1, REFUSED),
            (FWD, A, 202, 1_502, 1, REFUSED),
            (REP, S | A, 7, 202, 0, REFUSED),
        ]),
    );
    track(
        "at once",
        100,
        &established(&[
            (FWD, F | A, 101, 501, 0, Ok(Closing)),
            (REP, F | A, 501, 101, 0, Ok(Closing)),
            (FWD, A, 102, 502, 0, Ok(Closing)),
            (REP, A, 502, 102, 0, Ok(TimeWait)),
        ]),
    );
    track(
        "a FIN from nowhere closes nothing",
        100,
        &established(&[
            (FWD, F | A, 2_000_000_000, 501, 0, Ok(Established)),
            (REP, F | A, 2_000_000_000, 101, 0, Ok(Established)),
            (REP, A, 501, 101, 5, Ok(Established)),
        ]),
    );
    track(
        "round the end of the number space",
        u32::MAX,
        &[
            (REP, S | A, u32::MAX - 1, 0, 0, Ok(State::SynReceived)),
            (FWD, A, 0, u32::MAX, 0, Ok(Established)),
            (REP, A, u32::MAX, 0, 10, Ok(Established)),
            (FWD, F | A, 0, 9, 0, Ok(Closing)),
            (REP, F | A, 9, 1, 0, Ok(Closing)),
            (FWD, A, 1, 10, 0, Ok(TimeWait)),
        ],
    );
}

#[test]
fn resets() {
    use State::{Closed, Established};
    track("the number expected", 100, &established(&[(REP, R, 501, 0, 0, Ok(Closed))]));
    track("with acknowledgement", 100, &established(&[(FWD, R | A, 101, 501, 0, Ok(Closed))]));
    track(
        "near it: for the receiver to challenge",
        100,
        &established(&[
            (REP, R, 600, 0, 0, Ok(Established)),
            (FWD, A, 101, 501, 0, Ok(Established)),
            (REP, R, 501, 0, 0, Ok(Closed)),
        ]),
    );
    track(
        "after data that was lost before it came here",
        100,
        &established(&[(REP, R, 501 + 60_000, 0, 0, Ok(Established))]),
    );
    track(
        "who sent it has said all; who may not have received it draws it again",
        100,
        &established(&[
            (REP, R, 501, 0, 0, Ok(Closed)),
            (FWD, A, 101, 501, 10, Ok(Closed)),
            (REP, A, 501, 101, 0, REFUSED),
            (REP, A, 501, 101, 10, REFUSED),
            (REP, S | A, 501, 101, 0, REFUSED),
            (FWD, S | A, 101, 501, 0, REFUSED),
            (FWD, A, 3_000_000_000, 501, 10, REFUSED),
            (REP, R, 501, 0, 0, Ok(Closed)),
            (REP, R, 3_000_000_000, 0, 0, REFUSED),
        ]),
    );
}

#[test]
fn a_closed_connection_is_forgotten_in_time_whatever_its_ends_still_send() {
    let mut table = Conntrack::create(settings(1)).unwrap();
    let id = table.insert(&new(key(protocol::TCP, 1, 2), 1, segment(S, 100, 0, 0)), 0).unwrap();
    for (side, flags, seq, ack, len, _) in established(&[(REP, R, 501, 0, 0, Ok(State::Closed))]) {
        assert_eq!(table.touch(id, side, &segment(flags, seq, ack, len), 60, 0), Ok(Touch::Tracked));
    }
    for second in 1..9 {
        assert_eq!(table.touch(id, FWD, &segment(A, 101, 501, 1), 60, second * 1_000), Ok(Touch::Tracked));
        assert_eq!(table.expire(second * 1_000, usize::MAX), 0);
    }
    assert_eq!(table.expire(11_000, usize::MAX), 1);
}

#[test]
fn blind_resets_close_nothing() {
    // A guess every 2^20: what an attacker who cannot see the connection can afford.
    let mut table = Conntrack::create(settings(1)).unwrap();
    for side in [FWD, REP] {
        for guess in 0..4_096u32 {
            let sequence = (guess << 20).wrapping_add(0x5_5555);
            let id = table.insert(&new(key(protocol::TCP, 1, 2), 1, segment(S, 100, 0, 0)), 0).unwrap();
            for (side, flags, seq, ack, len, _) in established(&[]) {
                let _ = table.touch(id, side, &segment(flags, seq, ack, len), 60, 0);
            }
            let seen = table.touch(id, side, &segment(R, sequence, 0, 0), 60, 0);
            assert!(seen == REFUSED.map(|_| Touch::Tracked) || guess == 0, "{sequence} passed");
            assert_eq!(table.entry(id).state(), State::Established);
            table.remove(id);
        }
    }
}

#[test]
fn a_syn_after_the_end_is_judged_as_new_from_either_side() {
    let end_by_fin: &[Step] = &[
        (FWD, F | A, 101, 501, 0, Ok(State::Closing)),
        (REP, F | A, 501, 102, 0, Ok(State::Closing)),
        (FWD, A, 102, 502, 0, Ok(State::TimeWait)),
    ];
    let end_by_reset: &[Step] = &[(FWD, R, 101, 0, 0, Ok(State::Closed))];
    for end in [end_by_fin, end_by_reset] {
        for side in [FWD, REP] {
            let mut table = Conntrack::create(settings(1)).unwrap();
            let flow = key(protocol::TCP, 1, 2);
            let id = table.insert(&new(flow, 1, segment(S, 100, 0, 0)), 0).unwrap();
            for (side, flags, seq, ack, len, _) in established(end) {
                assert_eq!(table.touch(id, side, &segment(flags, seq, ack, len), 60, 0), Ok(Touch::Tracked));
            }
            let frames = table.entry(id).frames(side);
            let syn = segment(S, 1_000_000, 0, 0);
            assert_eq!(table.touch(id, side, &syn, 60, 0), Ok(Touch::Reopen));
            assert_eq!(table.entry(id).frames(side), frames, "not this flow's packet");
            // As the pipeline does when the new flow is allowed: even without removing the old one first.
            let again = if side == FWD { flow } else { flow.reversed() };
            let id = table.insert(&new(again, 1, syn), 0).unwrap();
            assert_eq!(table.entry(id).state(), State::SynSent);
            assert_eq!(table.find(&again, table.hash(&again)), Some((id, Side::Forward)));
        }
    }
}

/// A connection of which most passes unseen, as when the kernel carries it: client at 101, server at 501 when last seen whole.
fn loose() -> (Conntrack, FlowId) {
    let mut table = Conntrack::create(settings(4)).unwrap();
    let id = table.insert(&new(key(protocol::TCP, 1, 2), 1, segment(S, 100, 0, 0)), 0).unwrap();
    for (side, flags, sequence, acknowledgement) in
        [(FWD, S, 100, 0), (REP, S | A, 500, 101), (FWD, A, 101, 501)]
    {
        let l4 = segment(flags, sequence, acknowledgement, 0);
        assert_eq!(table.touch(id, side, &l4, 60, 0), Ok(Touch::Tracked));
    }
    table.loosen(id);
    (table, id)
}

#[test]
fn a_connection_that_passed_unseen_closes_wherever_its_numbers_are_by_then() {
    for far in [501, 1 << 30, 3_000_000_000, u32::MAX - 5] {
        let (mut table, id) = loose();
        let steps = [
            (REP, A, far, 101, 100, State::Established),
            (FWD, F | A, far ^ 1 << 31, far, 10, State::Closing),
            (REP, A, far, (far ^ 1 << 31).wrapping_add(11), 0, State::Closing),
            (REP, F | A, far, (far ^ 1 << 31).wrapping_add(11), 0, State::Closing),
            (FWD, A, (far ^ 1 << 31).wrapping_add(11), far.wrapping_add(1), 0, State::TimeWait),
            // The last acknowledgement was lost.
            (REP, F | A, far, (far ^ 1 << 31).wrapping_add(11), 0, State::TimeWait),
        ];
        for (side, flags, sequence, acknowledgement, len, after) in steps {
            let l4 = segment(flags, sequence, acknowledgement, len);
            assert_eq!(table.touch(id, side, &l4, 60, 0), Ok(Touch::Tracked), "{far}: {l4:?}");
            assert_eq!(table.entry(id).state(), after, "{far}: {l4:?}");
        }
        assert_eq!(table.touch(id, FWD, &segment(S, 7, 0, 0), 60, 0), Ok(Touch::Reopen));
    }
}

#[test]
fn a_connection_that_passed_unseen_is_reset_by_either_end() {
    for side in [FWD, REP] {
        let (mut table, id) = loose();
        assert_eq!(table.touch(id, side, &segment(R, 4_000_000_000, 0, 0), 60, 0), Ok(Touch::Tracked));
        assert_eq!(table.entry(id).state(), State::Closed);
    }
}

#[test]
fn what_passed_unseen_is_counted_and_keeps_a_flow_from_ageing() {
    let (mut table, id) = loose();
    table.carried(id, FWD, 1000, 60_000, 7_000_000);
    assert_eq!((table.entry(id).frames(FWD), table.entry(id).bytes(FWD)), (1002, 60_120));
    assert_eq!(table.expire(7_441_000, 100), 0);
    assert_eq!(table.expire(7_000_000 + 7_442_000, 100), 1);
    table.carried(id, FWD, 1, 60, 8_000_000);
    assert!(table.is_empty(), "what is forgotten stays forgotten");
}

#[test]
fn a_later_fragment_moves_nothing_and_passes_only_while_the_connection_lives() {
    let mut table = Conntrack::create(settings(1)).unwrap();
    let id = table.insert(&new(key(protocol::TCP, 1, 2), 1, segment(S, 100, 0, 0)), 0).unwrap();
    assert_eq!(table.touch(id, REP, &L4::Other, 1_500, 0), Ok(Touch::Tracked));
    assert_eq!(table.entry(id).state(), State::SynSent);
    assert_eq!(table.touch(id, REP, &segment(R | A, 0, 101, 0), 60, 0), Ok(Touch::Tracked));
    assert_eq!(table.touch(id, REP, &L4::Other, 1_500, 0), Err(DropReason::InvalidState));
}

#[test]
fn every_timer_is_the_one_its_state_has() {
    let timeouts = Timeouts::default();
    let of = |state| timeouts.of(protocol::TCP, state);
    assert_eq!(of(State::SynSent), 30_000);
    assert_eq!(of(State::SynReceived), 30_000);
    assert_eq!(of(State::Established), 7_440_000);
    assert_eq!(of(State::Closing), 60_000);
    assert_eq!(of(State::TimeWait), 60_000);
    assert_eq!(of(State::Closed), 10_000);
    assert_eq!(timeouts.of(protocol::UDP, State::Unreplied), 30_000);
    assert_eq!(timeouts.of(protocol::UDP, State::Assured), 180_000);
    assert_eq!(timeouts.of(protocol::ICMPV6, State::Replied), 30_000);
    assert_eq!(timeouts.of(47, State::Unreplied), 60_000);
    assert_eq!(timeouts.of(47, State::Replied), 180_000);
}

#[test]
fn no_segment_panics_or_revives_what_is_over() {
    let mut rng = StdRng::seed_from_u64(11);
    let mut table = Conntrack::create(settings(1)).unwrap();
    for _ in 0..3_000 {
        let isn = rng.random();
        let id = table.insert(&new(key(protocol::TCP, 1, 2), 1, segment(S, isn, 0, 0)), 0).unwrap();
        for _ in 0..30 {
            // Numbers near the beginning often, so that something happens.
            let mut number = || if rng.random_bool(0.9) { rng.random_range(0..4) } else { rng.random() };
            let (sequence, acknowledgement) = (isn.wrapping_add(number()), isn.wrapping_add(number()));
            let (flags, len) = (rng.random_range(0..64), [0, 0, 1, u16::MAX][rng.random_range(0..4)]);
            let side = if rng.random() { FWD } else { REP };
            let before = table.entry(id).state();
            let seen = table.touch(id, side, &segment(flags, sequence, acknowledgement, len), 60, 0);
            let after = table.entry(id).state();
            assert_eq!(seen == Ok(Touch::Reopen), before.is_over() && flags & (S | A | R) == S);
            assert!(!before.is_over() || after == before, "{before:?} became {after:?}");
            assert!(before != State::SynSent || after != State::Established, "without an answer");
            assert!(side == REP || before != State::SynSent || after != State::SynReceived);
        }
        table.remove(id);
    }
}
