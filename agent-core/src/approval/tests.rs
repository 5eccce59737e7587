//! Requests and decisions, by example and at random -> each request has one answer, and somebody answers for it.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::OnTimeout;

const SECOND: u64 = 1_000_000_000;

fn terms(groups: &[&str], seconds: u64, single_use: bool, on_timeout: OnTimeout) -> Approval {
    Approval {
        groups: groups.iter().map(|group| Arc::from(*group)).collect(),
        ttl: Duration::from_secs(seconds),
        single_use,
        on_timeout,
    }
}

fn request(id: u128, digest: u8, asked: u64, terms: Approval) -> Request {
    let event = Event {
        event_id: id,
        time: asked,
        session_id: 7,
        policy_rule: "no-drop".into(),
        policy_version: "0123456789ab".into(),
        identity_principal: "app".into(),
        process_owner: "alice".into(),
        client_address: "10.0.0.1".into(),
        client_port: 4711,
        db_query_text: "DROP TABLE secret_plans".into(),
        ..Event::default()
    };
    Request::new(&event, &"Ask in #dba.".into(), [digest; 32], terms)
}

fn user(name: &str, groups: &[&str]) -> Actor {
    let groups = groups.iter().map(|group| Arc::from(*group)).collect();
    Actor { name: format!("user:{name}").into(), user: name.into(), power: Power::MemberOf(groups) }
}

fn root() -> Actor {
    Actor { name: "user:root".into(), user: "root".into(), power: Power::All }
}

fn say(id: u128, actor: &Actor, approve: bool) -> Decision<'_> {
    Decision { id, digest: None, actor, approve, reason: "because" }
}

fn dba() -> Approval {
    terms(&["dba"], 60, true, OnTimeout::Deny)
}

#[test]
fn an_approval_is_used_once() {
    let (mut ledger, bob) = (Ledger::default(), user("bob", &["staff", "dba"]));
    assert_eq!(ledger.ask(request(1, 1, 0, dba()), 0), Asked::Waits);
    assert_eq!(ledger.ask(request(1, 1, 0, dba()), 0), Asked::Waits);
    assert_eq!(ledger.decide(&say(1, &bob, true), SECOND).unwrap().id, 1);
    assert_eq!(ledger.get(1).unwrap().1, State::Approved);
    let answers = ledger.answers();
    assert_eq!(answers.len(), 1);
    assert!(answers[0].goes_on && &*answers[0].actor == "user:bob" && &*answers[0].reason == "because");
    assert_eq!((answers[0].session_id, answers[0].state), (7, State::Approved));
    assert_eq!(ledger.get(1).unwrap().1, State::Used);
    // Neither a second word about it, nor the same bytes again, nor the same id again.
    let again = ledger.decide(&say(1, &bob, true), 2 * SECOND).unwrap_err();
    assert_eq!(again.to_string(), "already used by user:bob at 1970-01-01T00:00:01Z");
    assert_eq!(ledger.ask(request(2, 1, 0, dba()), 2 * SECOND), Asked::Waits);
    let Asked::Answered(answer) = ledger.ask(request(1, 1, 0, dba()), 2 * SECOND) else { panic!() };
    assert!(!answer.goes_on);
    assert!(ledger.answers().is_empty());
}

#[test]
fn who_may_decide() {
    let mut ledger = Ledger::default();
    ledger.ask(request(1, 1, 0, dba()), 0);
    let refused = |ledger: &mut Ledger, decision: &Decision<'_>| ledger.decide(decision, 1).unwrap_err();
    let eve = user("eve", &["staff"]);
    let told = refused(&mut ledger, &say(1, &eve, true));
    assert_eq!((told.code(), told.to_string().contains("members of dba")), ("not_in_group", true));
    assert_eq!(ledger.pending(&eve).count(), 0);
    assert_eq!(ledger.pending(&root()).count(), 1);
    let alice = user("alice", &["dba"]);
    assert_eq!(refused(&mut ledger, &say(1, &alice, true)).code(), "own");
    let link = |id| Actor { name: "link:slack".into(), user: "".into(), power: Power::Bearer(id) };
    assert_eq!(refused(&mut ledger, &say(1, &link(2), true)).code(), "not_in_group");
    let bob = user("bob", &["dba"]);
    for bit in 0..256 {
        let mut digest = [1; 32];
        digest[bit / 8] ^= 1 << (bit % 8);
        let told = refused(&mut ledger, &Decision { digest: Some(digest), ..say(1, &bob, true) });
        assert_eq!(told, Refusal::BytesDiffer);
    }
    assert_eq!(ledger.get(1).unwrap().1, State::Pending);
    // One's own statement may be refused by oneself.
    ledger.decide(&Decision { digest: Some([1; 32]), ..say(1, &alice, false) }, 1).unwrap();
    assert_eq!(ledger.answers()[0].state, State::Denied);
    assert_eq!(ledger.decide(&say(9, &root(), true), 1).unwrap_err(), Refusal::Unknown);
    // A rule without groups is for root, also where somebody is in no group.
    ledger.ask(request(2, 1, 0, terms(&[], 60, true, OnTimeout::Deny)), 1);
    let told = refused(&mut ledger, &say(2, &user("eve", &[]), true));
    assert!(told.to_string().contains("only root"), "{told}");
    ledger.decide(&say(2, &root(), true), 1).unwrap();
}

#[test]
fn what_nobody_decides_ends_as_the_rule_says() {
    for (on_timeout, goes_on) in [(OnTimeout::Deny, false), (OnTimeout::Allow, true)] {
        let mut ledger = Ledger::default();
        ledger.ask(request(1, 1, SECOND, terms(&[], 60, true, on_timeout)), SECOND);
        assert_eq!(ledger.next_expiry(), Some(61 * SECOND));
        assert_eq!(ledger.expire(61 * SECOND - 1), 0);
        assert_eq!(ledger.settled(1, 61 * SECOND - 1), None);
        // A decision in the very moment is too late, also where nobody has looked at the clock before.
        let late = ledger.decide(&say(1, &root(), true), 61 * SECOND).unwrap_err();
        assert_eq!(late, Refusal::Expired { at: 61 * SECOND });
        let mut other = Ledger::default();
        other.ask(request(1, 1, SECOND, terms(&[], 60, true, on_timeout)), SECOND);
        assert_eq!(other.settled(1, 61 * SECOND), Some(late));
        assert_eq!(ledger.settled(2, 61 * SECOND), Some(Refusal::Unknown));
        let answers = ledger.answers();
        assert_eq!((answers[0].state, answers[0].goes_on), (State::Expired, goes_on));
        assert_eq!(ledger.counts().expired, 1);
    }
}

#[test]
fn a_client_may_go() {
    let mut ledger = Ledger::default();
    ledger.ask(request(1, 1, 0, dba()), 0);
    ledger.ask(request(2, 1, 0, dba()), 0);
    assert!(ledger.withdraw(1, SECOND) && !ledger.withdraw(1, SECOND) && !ledger.withdraw(9, SECOND));
    let late = ledger.decide(&say(1, &root(), true), SECOND).unwrap_err();
    assert_eq!(late, Refusal::Cancelled { at: SECOND });
    // Approved, but the client went before the gate knew: nothing is released.
    ledger.decide(&say(2, &root(), true), SECOND).unwrap();
    assert!(ledger.withdraw(2, SECOND));
    assert!(ledger.answers().is_empty());
}

#[test]
fn an_approval_may_hold_for_a_while() {
    let standing = || terms(&["dba"], 60, false, OnTimeout::Deny);
    let mut ledger = Ledger::default();
    for id in 1..=3 {
        ledger.ask(request(id, 1, 0, standing()), 0);
    }
    ledger.ask(request(4, 2, 0, standing()), 0);
    ledger.withdraw(3, 0);
    ledger.decide(&say(2, &root(), true), 10 * SECOND).unwrap();
    let mut answers = ledger.answers();
    answers.sort_by_key(|answer| answer.id);
    let told: Vec<_> = answers.iter().map(|answer| (answer.id, answer.decided, answer.goes_on)).collect();
    assert_eq!(told, [(1, 2, true), (2, 2, true)]);
    let Asked::Answered(answer) = ledger.ask(request(5, 1, 0, standing()), 69 * SECOND) else { panic!() };
    assert!(answer.goes_on && answer.decided == 2 && &*answer.actor == "user:root");
    // Not for other bytes, not for another version of the rule or another user, not for longer.
    assert_eq!(ledger.ask(request(6, 3, 69 * SECOND, standing()), 69 * SECOND), Asked::Waits);
    let changed = [
        Request { policy_version: "other".into(), ..request(7, 1, 69 * SECOND, standing()) },
        Request { db_user: "other".into(), ..request(8, 1, 69 * SECOND, standing()) },
        Request { identity_principal: "other".into(), ..request(9, 1, 69 * SECOND, standing()) },
    ];
    for request in changed {
        assert_eq!(ledger.ask(request, 69 * SECOND), Asked::Waits);
    }
    assert_eq!(ledger.ask(request(10, 1, 70 * SECOND, standing()), 70 * SECOND), Asked::Waits);
}

#[test]
fn there_is_an_end_to_everything() {
    let limits = Limits { pending: 2, over: 3, standing: 1 };
    let mut ledger = Ledger::new(limits);
    for id in 1..=2 {
        assert_eq!(ledger.ask(request(id, 1, 0, dba()), 0), Asked::Waits);
    }
    let Asked::Answered(answer) = ledger.ask(request(3, 1, 0, dba()), 0) else { panic!() };
    assert_eq!((answer.state, answer.goes_on), (State::Expired, false));
    let open = terms(&[], 60, true, OnTimeout::Allow);
    let Asked::Answered(answer) = ledger.ask(request(4, 1, 0, open), 0) else { panic!() };
    assert!(answer.goes_on);
    assert_eq!(ledger.counts().no_room, 2);
    for id in 1..=2 {
        ledger.decide(&say(id, &root(), false), 0).unwrap();
    }
    // What was not fetched is not forgotten and takes its room.
    assert!(matches!(ledger.ask(request(5, 1, 0, dba()), 0), Asked::Answered(_)));
    assert_eq!(ledger.answers().len(), 2);
    assert_eq!(ledger.get(3).map(|_| ()), None);
    assert!(ledger.get(2).is_some() && ledger.get(5).is_some());
}

#[test]
fn ids_are_found_by_their_beginning() {
    let mut ledger = Ledger::default();
    let base = 0x0193_abcd_0000_7000_8000_0000_0000_0000;
    for tail in [1, 2] {
        ledger.ask(request(base + (tail << 64), 1, 0, dba()), 0);
    }
    ledger.ask(request(u128::MAX, 1, 0, dba()), 0);
    assert_eq!(ledger.find("0193abc"), Err(Refusal::Short(8)));
    assert_eq!(ledger.find("0193ABCD"), Err(Refusal::Ambiguous(2)));
    for known in [base + (1 << 64), base + (2 << 64), u128::MAX] {
        let text = id_text(known);
        assert_eq!(ledger.find(&text), Ok(known));
        assert_eq!(ledger.find(&text[..19].replace('-', "")), Ok(known));
    }
    for none in ["0193abce", "+193abcd0", "hello world", &"f".repeat(33)] {
        assert_eq!(ledger.find(none), Err(Refusal::Unknown), "{none}");
    }
    // One that is over counts: its neighbour may not be taken for it.
    ledger.withdraw(base + (1 << 64), 0);
    assert_eq!(ledger.find("0193abcd"), Err(Refusal::Ambiguous(2)));
}

#[test]
fn texts_are_cut_and_never_in_debug() {
    let event = Event { db_query_text: "é".repeat(SHOWN).into(), ..Event::default() };
    let request = Request::new(&event, &"".into(), [0; 32], dba());
    assert!(request.db_query_text.len() < SHOWN + 40 && request.db_query_text.ends_with("… (32768 bytes)"));
    let request = super::tests::request(1, 1, 0, dba());
    assert!(!format!("{request:?}").contains("secret_plans"));
    assert_eq!(parse_digest(&digest_text(&[0xa7; 32])), Some([0xa7; 32]));
    assert_eq!(parse_digest(&digest_text(&[0; 32])), Some([0; 32]));
    assert_eq!(parse_digest(&"é".repeat(32)), None);
}

/// What happens, at random.
#[derive(Clone, Debug)]
enum Op {
    Ask { digest: u8, seconds: u64, single: bool, allow: bool },
    Decide { pick: usize, who: usize, right: bool, approve: bool },
    Withdraw(usize),
    Later(u64),
    Fetch,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0u8..3, 1u64..30, any::<bool>(), any::<bool>())
            .prop_map(|(digest, seconds, single, allow)| Op::Ask { digest, seconds, single, allow }),
        4 => (any::<usize>(), 0usize..4, prop::bool::weighted(0.8), any::<bool>())
            .prop_map(|(pick, who, right, approve)| Op::Decide { pick, who, right, approve }),
        1 => any::<usize>().prop_map(Op::Withdraw),
        2 => (0u64..20).prop_map(Op::Later),
        2 => Just(Op::Fetch),
    ]
}

/// One request as the test knows it, by other means than the ledger.
struct Known {
    request: Request,
    answered: u32,
    withdrawn: bool,
    accepted: Option<(bool, u64)>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn each_request_has_one_answer_that_somebody_answers_for(ops in prop::collection::vec(op(), 1..120)) {
        let limits = Limits { pending: 8, over: 1_000, standing: 100 };
        let (mut ledger, mut now, mut known) = (Ledger::new(limits), SECOND, BTreeMap::<u128, Known>::new());
        let actors = [root(), user("bob", &["dba"]), user("alice", &["dba"]), user("eve", &["staff"])];
        for op in ops {
            let pick = |at: usize| known.keys().nth(at % known.len().max(1)).copied().unwrap_or(99);
            let (mut answers, fetched) = (Vec::new(), matches!(op, Op::Fetch));
            match op {
                Op::Ask { digest, seconds, single, allow } => {
                    let timeout = if allow { OnTimeout::Allow } else { OnTimeout::Deny };
                    let id = known.len() as u128 + 1;
                    let request = request(id, digest, now, terms(&["dba"], seconds, single, timeout));
                    known.insert(
                        id,
                        Known { request: request.clone(), answered: 0, withdrawn: false, accepted: None },
                    );
                    if let Asked::Answered(answer) = ledger.ask(request, now) {
                        answers.push(answer);
                    }
                }
                Op::Decide { pick: at, who, right, approve } => {
                    let (id, actor) = (pick(at), &actors[who]);
                    let held = known.get(&id).map_or([0; 32], |known| known.request.digest);
                    let digest = if right { held } else { [9; 32] };
                    let said = Decision { id, digest: Some(digest), actor, approve, reason: "" };
                    let accepted = ledger.decide(&said, now).is_ok();
                    if let Some(known) = known.get_mut(&id) {
                        let may = who < 2 || (who == 2 && !approve);
                        let open = known.accepted.is_none() && !known.withdrawn && known.answered == 0;
                        prop_assert!(!accepted || (may && right && open && now < known.request.expires()));
                        if accepted {
                            known.accepted = Some((approve, now));
                        }
                    }
                }
                Op::Withdraw(at) => {
                    let id = pick(at);
                    let gone = ledger.withdraw(id, now);
                    if let Some(known) = known.get_mut(&id) {
                        prop_assert!(!gone || known.answered == 0);
                        known.withdrawn |= gone;
                    }
                }
                Op::Later(seconds) => now += seconds * SECOND,
                Op::Fetch => {
                    ledger.expire(now);
                    answers = ledger.answers();
                }
            }
            for answer in answers {
                let at_once = !fetched;
                let one = known.get_mut(&answer.id).unwrap();
                one.answered += 1;
                prop_assert!(one.answered == 1 && !one.withdrawn);
                let by_time = answer.state == State::Expired && one.request.terms.on_timeout == OnTimeout::Allow;
                let one = &known[&answer.id];
                let by = &known[&answer.decided];
                let own = answer.decided == answer.id;
                // Approved with another that waited for the same, or by an approval that still held when it asked.
                let stood = |at: u64| {
                    let in_time = if at_once { now < after(at, &by.request.terms) } else { one.request.asked <= at };
                    !by.request.terms.single_use && in_time
                };
                let by_somebody = answer.state == State::Approved
                    && by.accepted.is_some_and(|(approved, at)| approved && (own || stood(at)))
                    && by.request.digest == one.request.digest;
                prop_assert_eq!(answer.goes_on, by_time || by_somebody);
                if answer.state == State::Denied {
                    prop_assert_eq!(one.accepted.map(|(approved, _)| approved), Some(false));
                }
            }
            prop_assert!(ledger.waiting() <= limits.pending);
            prop_assert_eq!(ledger.pending(&root()).count(), ledger.waiting());
        }
        // In the end everybody has had an answer, or did not wait for it.
        now += 100 * SECOND;
        ledger.expire(now);
        let last: Vec<u128> = ledger.answers().iter().map(|answer| answer.id).collect();
        for (id, one) in &known {
            let answered = one.answered + u32::from(last.contains(id));
            prop_assert_eq!(answered, u32::from(!one.withdrawn), "{}", id);
        }
        let counts: u64 = ledger.counts().named().iter().map(|(_, count)| count).sum();
        prop_assert_eq!(counts, known.len() as u64);
    }
}
