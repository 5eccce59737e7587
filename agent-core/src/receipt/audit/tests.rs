//! Chains and what is signed about them -> each way of tampering is found.

use super::*;
use crate::event::Event;
use crate::receipt::{
    Chain, Checkpoint, Doubt, Hex, Key, Keyring, Proofs, Seals, SigningKey, Stub, Suspect, Trust, canonical,
};

const AGENT: &str = "agent-1";

fn link(event: &Event) -> Link {
    let mut bytes = Vec::new();
    canonical(event, &mut bytes);
    let receipt = Receipt {
        sequence: event.sequence,
        previous_hash: event.previous_hash,
        hash: event.hash,
        canonical: &bytes,
    };
    Link::of(&receipt, event.event_id)
}

/// A chain whose key is changed after receipt 50, with a checkpoint every ten receipts.
struct Sealed {
    events: Vec<Event>,
    proofs: Proofs,
    keys: [SigningKey; 2],
}

fn sealed(length: u64) -> Sealed {
    let keys = [SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32])];
    let (mut chain, mut scratch, mut proofs) = (Chain::default(), Vec::new(), Proofs::default());
    proofs.keys.push(Key::new(AGENT, &keys[0], None, 1, 1));
    proofs.keys.push(Key::new(AGENT, &keys[1], Some(&keys[0]), 51, 2));
    let mut events = Vec::new();
    for i in 1..=length {
        let mut event = Event { time: i, agent_id: AGENT.into(), ..Event::default() };
        chain.append(&mut event, &mut scratch);
        events.push(event);
        if i % 10 == 0 {
            let key = &keys[usize::from(i > 50)];
            proofs.checkpoints.push(Checkpoint::new(AGENT, key, &chain, i - 10, i));
        }
    }
    Sealed { events, proofs, keys }
}

fn audit(events: &[Event], proofs: &Proofs) -> Result<u64, String> {
    audit_from(events, proofs, 1)
}

fn audit_from(events: &[Event], proofs: &Proofs, from: u64) -> Result<u64, String> {
    let seals = Keyring::new(&proofs.keys, &Trust::default())
        .and_then(|ring| ring.seals(AGENT, proofs, from))
        .map_err(|suspect| suspect.to_string())?;
    let mut auditor = Auditor::new(seals);
    for event in events {
        auditor.link(&link(event));
    }
    auditor.finish();
    match auditor.first {
        Some(finding) => Err(format!("receipt {}: {}", finding.sequence, finding.fault)),
        None => Ok(auditor.count()),
    }
}

#[test]
fn what_is_signed_holds() {
    let Sealed { events, proofs, .. } = sealed(105);
    assert_eq!(audit(&events, &proofs), Ok(105));
    assert_eq!(audit(&events[..100], &proofs), Ok(100), "the newest are not signed yet");
    let seals = Keyring::new(&proofs.keys, &Trust::default()).unwrap().seals(AGENT, &proofs, 1).unwrap();
    assert_eq!((seals.marks.len(), Auditor::new(seals).signed()), (10, 100));
}

#[test]
fn a_chain_that_was_cut_off_or_made_anew_is_found() {
    let Sealed { events, proofs, .. } = sealed(100);
    for left in [0, 1, 10, 95, 99] {
        let from = left as u64 + 1;
        let what = if left == 99 { "receipt 100".into() } else { format!("receipts {from} to 100") };
        assert_eq!(
            audit(&events[..left], &proofs),
            Err(format!("receipt {from}: cut off: {what}, which a checkpoint signed, are not there"))
        );
    }
    let (mut chain, mut scratch) = (Chain::default(), Vec::new());
    let mut anew = events.clone();
    anew[56].db_user = "nobody".into();
    for event in &mut anew {
        chain.append(event, &mut scratch);
    }
    assert_eq!(audit(&anew, &Proofs::default()), Ok(100), "the chain alone does not show it");
    let said = audit(&anew, &proofs).unwrap_err();
    assert_eq!(said, "receipt 60: made anew: the checkpoint over receipts 51 to 60 signed another hash");
}

#[test]
fn each_statement_that_is_changed_or_gone_is_found() {
    let Sealed { events, proofs, keys } = sealed(100);
    let check = |words: &str, change: &dyn Fn(&mut Proofs)| {
        let mut proofs = proofs.clone();
        change(&mut proofs);
        let said = audit(&events, &proofs).unwrap_err();
        assert!(said.contains(words), "{words}: {said}");
    };
    check("missing before it: the checkpoint over receipts 31 to 40", &|p| drop(p.checkpoints.remove(3)));
    check("checkpoint at receipt 40 of agent agent-1: its signature is wrong", &|p| {
        p.checkpoints[3].time += 1;
    });
    check("its signature is wrong", &|p| p.checkpoints[3].head.0[31] ^= 1);
    check("its signature is wrong", &|p| p.checkpoints[3].signature.0[5] ^= 1);
    check("contradict", &|p| p.checkpoints[3].count = 41);
    check("was not in force there", &|p| {
        let chain = Chain { sequence: 70, head: p.checkpoints[6].head.0 };
        p.checkpoints[6] = Checkpoint::new(AGENT, &keys[0], &chain, 60, 7);
    });
    check("is not there", &|p| drop(p.keys.remove(1)));
    check("no earlier key vouches", &|p| drop(p.keys.remove(0)));
    check("its signature is wrong", &|p| p.keys[1].from_sequence += 1);
    check("is not that of its public key", &|p| p.keys[1].public_key = Hex([3; 32]));
    check("says something else", &|p| {
        let chain = Chain { sequence: 100, head: [5; 32] };
        p.checkpoints.push(Checkpoint::new(AGENT, &keys[1], &chain, 90, 7));
    });
    // Somebody with a key of his own.
    let own = SigningKey::from_seed(&[9; 32]);
    check("no earlier key vouches", &|p| p.keys.push(Key::new(AGENT, &own, None, 91, 9)));
    check("signature is wrong", &|p| {
        let mut key = Key::new(AGENT, &own, Some(&own), 91, 9);
        key.previous_key_id = Some(keys[1].id());
        p.keys.push(key);
    });
    let other = Proofs { keys: vec![Key::new(AGENT, &own, None, 1, 9)], ..Proofs::default() };
    assert!(Keyring::new(&other.keys, &Trust::default()).is_ok(), "whoever knows no key believes the first");
    let known = Trust { keys: vec![keys[0].id()], ..Trust::default() };
    assert!(Keyring::new(&proofs.keys, &known).is_ok());
    let untrusted = Keyring::new(&other.keys, &known).err().map(|Suspect { doubt, .. }| doubt);
    assert_eq!(untrusted, Some(Doubt::Untrusted));
    let known =
        |agent: &str| Trust { agents: [(agent.into(), vec![keys[0].id()])].into(), ..Trust::default() };
    assert!(Keyring::new(&other.keys, &known(AGENT)).is_err(), "an anchor knows this agent's keys");
    assert!(Keyring::new(&other.keys, &known("agent-2")).is_ok(), "but not another one's");
}

fn stub(events: &[Event], first: u64, last: u64, key: &SigningKey) -> Stub {
    let (a, b) = (&events[first as usize - 1], &events[last as usize - 1]);
    Stub {
        agent_id: AGENT.into(),
        first_sequence: first,
        last_sequence: last,
        count: last - first + 1,
        previous_hash: Hex(a.previous_hash),
        first_hash: Hex(a.hash),
        last_hash: Hex(b.hash),
        time: 5,
        policy: "retention: {days: 90}".into(),
        removed_by: AGENT.into(),
        key_id: key.id(),
        signature: Hex([0; 64]),
    }
    .sign(key)
}

#[test]
fn what_is_left_after_a_removal_verifies() {
    let Sealed { events, proofs: whole, keys } = sealed(100);
    let mut proofs = whole.clone();
    proofs.stubs = vec![stub(&events, 1, 30, &keys[1]), stub(&events, 31, 60, &keys[1])];
    assert_eq!(audit(&events[60..], &proofs), Ok(40));
    assert_eq!(audit(&events[25..], &proofs), Ok(40), "what is still there of it is not looked at");
    proofs.checkpoints.drain(..5);
    assert_eq!(audit(&events[60..], &proofs), Ok(40), "nor are its checkpoints needed");
    let said = audit(&events[61..], &proofs).unwrap_err();
    assert_eq!(said, "receipt 62: missing before it: receipt 61");
    let check = |words: &str, stubs: Vec<Stub>| {
        let said = audit(&events[60..], &Proofs { stubs, ..whole.clone() }).unwrap_err();
        assert!(said.contains(words), "{words}: {said}");
    };
    check("receipt 61: missing before it: receipts 31 to 60", vec![stub(&events, 1, 30, &keys[1])]);
    check("receipts 1 to 30 are unaccounted for", vec![stub(&events, 31, 60, &keys[1])]);
    let mut longer = stub(&events, 1, 60, &keys[1]);
    (longer.last_sequence, longer.count) = (70, 70);
    check("its signature is wrong", vec![longer]);
    let own = SigningKey::from_seed(&[9; 32]);
    check("is not there", vec![stub(&events, 1, 60, &own)]);
    let mut lying = events.clone();
    lying[59].hash = [4; 32];
    check("says something else", vec![stub(&lying, 1, 60, &keys[1])]);
}

#[test]
fn a_part_is_held_by_the_checkpoint_before_it() {
    let Sealed { events, proofs, .. } = sealed(100);
    let mut part = proofs.clone();
    part.checkpoints.drain(..3);
    assert_eq!(audit_from(&events[40..80], &Proofs::default(), 41), Ok(40));
    part.checkpoints.truncate(5);
    assert_eq!(part.checkpoints.iter().map(|c| c.sequence).collect::<Vec<_>>(), [40, 50, 60, 70, 80]);
    assert_eq!(audit_from(&events[40..80], &part, 41), Ok(40));
    let said = audit_from(&events[41..80], &part, 41).unwrap_err();
    assert_eq!(said, "receipt 42: missing before it: receipt 41");
    assert!(audit_from(&events[40..79], &part, 41).unwrap_err().contains("cut off: receipt 80"));
    assert!(audit_from(&[], &part, 41).unwrap_err().contains("cut off: receipts 41 to 80"));
}

#[test]
fn receipts_from_before_the_first_key_are_told() {
    let Sealed { events, keys, .. } = sealed(100);
    let chain = Chain { sequence: 80, head: events[79].hash };
    let proofs = Proofs {
        keys: vec![Key::new(AGENT, &keys[0], None, 31, 9)],
        checkpoints: vec![Checkpoint::new(AGENT, &keys[0], &chain, 30, 9)],
        ..Proofs::default()
    };
    assert_eq!(audit(&events, &proofs), Ok(100));
    let seals: Seals =
        Keyring::new(&proofs.keys, &Trust::default()).unwrap().seals(AGENT, &proofs, 1).unwrap();
    assert_eq!(seals.unsigned, [(1, 30)]);
}
