//! Legs of made-up poolers -> who is behind each statement.

use super::*;

const KEY: Key = (1, 1);

fn client(session: u64) -> Arc<Event> {
    let event = Event { session_id: session, process_pid: Some(session as u32), ..Event::default() };
    Arc::new(Event { identity_principal: format!("client {session}").into(), ..event })
}

struct Case {
    join: Join,
    now: u64,
    told: Vec<Event>,
}

impl Case {
    fn new() -> Self {
        Self { join: Join::default(), now: 1_000, told: Vec::new() }
    }
    fn asked(&mut self, session: u64, key: Option<Key>) {
        self.asked_since(session, key, 0);
    }
    /// `before`: how much earlier it may have been sent.
    fn asked_since(&mut self, session: u64, key: Option<Key>, before: u64) {
        self.now += 10;
        let (place, from) = ((session, self.now), Nanos(self.now - before));
        self.join.asked(Asking { place, key, from, actor: client(session) }, Nanos(self.now));
    }
    fn answered(&mut self, session: u64, rows: u64) {
        self.now += 10;
        let place = *self.join.places.keys().find(|place| place.0 == session).unwrap();
        self.join.answered(place, &outcome(rows));
    }
    /// The pooler asks a server.
    fn relayed(&mut self, session: u64, key: Option<Key>) {
        self.now += 10;
        self.join.relayed((session, 1), key, Nanos(self.now));
    }
    fn told(&mut self, session: u64, rows: u64) {
        self.now += 10;
        let event = Event { session_id: session, db_response_returned_rows: Some(rows), ..Event::default() };
        self.join.hold((session, 1), event, Nanos(self.now));
    }
    fn settle(&mut self) -> Vec<Option<u32>> {
        let told = &mut self.told;
        self.join.settle(Nanos(self.now), false, &mut |event| told.push(event.clone()));
        self.told.iter().map(|event| event.process_pid).collect()
    }
}

fn outcome(rows: u64) -> Outcome {
    Outcome::of(&Event { db_response_returned_rows: Some(rows), ..Event::default() })
}

#[test]
fn the_only_client_that_asked_is_behind_it() {
    let mut case = Case::new();
    case.asked(1, Some(KEY));
    case.asked(2, Some((2, 2)));
    case.relayed(9, Some(KEY));
    case.told(9, 1);
    assert_eq!(case.settle(), [Some(1)]);
    let event = &case.told[0];
    assert_eq!(&*event.identity_principal, "client 1");
    assert!(event.identity_claims.iter().any(|c| &*c.key == "pooled_session" && &*c.value == "1"));
}

#[test]
fn of_two_who_asked_the_same_it_is_neither() {
    let mut case = Case::new();
    case.asked(1, Some(KEY));
    case.asked(2, Some(KEY));
    case.relayed(9, Some(KEY));
    case.told(9, 1);
    assert_eq!(case.settle(), [None]);
    // Nor of one who asks later, nor of one who has been answered.
    case.answered(1, 1);
    case.answered(2, 1);
    case.relayed(8, Some(KEY));
    case.asked(3, Some(KEY));
    case.told(8, 1);
    assert_eq!(case.settle(), [None, None]);
}

#[test]
fn where_a_client_could_not_be_read_the_servers_side_must_prove_it() {
    for (blind, rows, expected) in [(true, 1, Some(1)), (true, 2, None), (false, 1, Some(1))] {
        let mut case = Case::new();
        case.join.clients.darken(5, blind);
        case.asked(1, Some(KEY));
        case.relayed(9, Some(KEY));
        case.told(9, 1);
        assert_eq!(case.settle(), [], "waits for the client's answer");
        case.answered(1, rows);
        assert_eq!(case.settle(), [expected], "{rows} rows");
    }
}

#[test]
fn two_that_may_be_the_one_asked_for_are_neither() {
    let mut case = Case::new();
    case.join.clients.darken(5, true);
    case.asked(1, Some(KEY));
    for session in [8, 9] {
        case.relayed(session, Some(KEY));
        case.told(session, 1);
    }
    case.answered(1, 1);
    assert_eq!(case.settle(), [None, None]);
}

#[test]
fn blind_on_both_sides_is_no_proof() {
    let mut case = Case::new();
    case.join.clients.darken(5, true);
    case.join.servers.darken(7, true);
    case.asked(1, Some(KEY));
    case.relayed(9, Some(KEY));
    case.told(9, 1);
    case.answered(1, 1);
    assert_eq!(case.settle(), [None]);
}

#[test]
fn a_loss_is_over_with_the_next_request() {
    let mut case = Case::new();
    case.join.clients.darken(2, false);
    case.join.servers.darken(7, true);
    case.asked(1, Some(KEY));
    case.relayed(9, Some(KEY));
    case.told(9, 1);
    assert_eq!(case.settle(), [None]);
    case.answered(1, 1);
    case.asked(2, Some((3, 3)));
    case.asked(1, Some(KEY));
    case.relayed(8, Some(KEY));
    case.told(8, 1);
    assert_eq!(case.settle(), [None, Some(1)]);
    // A record was dropped, nobody knows whose.
    case.answered(1, 1);
    case.asked(1, Some(KEY));
    case.relayed(6, Some(KEY));
    case.told(6, 1);
    case.join.clients.shaken(Nanos(case.now));
    assert_eq!(case.settle(), [None, Some(1), None]);
}

#[test]
fn a_text_that_was_not_seen_may_be_any() {
    let mut case = Case::new();
    case.join.servers.darken(7, true);
    case.asked(2, None);
    case.asked(1, Some(KEY));
    case.relayed(9, Some(KEY));
    case.told(9, 1);
    assert_eq!(case.settle(), [None]);
}

#[test]
fn requests_that_are_told_late_are_waited_for() {
    let mut case = Case::new();
    case.join.joined(1, true);
    case.relayed(9, Some(KEY));
    case.told(9, 1);
    assert_eq!(case.settle(), []);
    case.asked_since(1, Some(KEY), 1_000);
    case.answered(1, 1);
    assert_eq!(case.settle(), [Some(1)]);
    // But not for ever; what is behind it keeps its place.
    case.relayed(9, Some((7, 7)));
    case.told(9, 1);
    assert!(case.join.queue(9, &Event::default(), Nanos(case.now)));
    assert_eq!(case.settle(), [Some(1)]);
    case.now += PATIENCE;
    assert_eq!(case.settle(), [Some(1), None, None]);
    assert!(!case.join.queue(9, &Event::default(), Nanos(case.now)));
}

#[test]
fn nothing_is_kept_of_what_is_over() {
    let mut case = Case::new();
    for session in 0..50 {
        case.asked(session, Some(KEY));
        case.relayed(100 + session, Some(KEY));
        case.told(100 + session, 1);
        if session % 2 == 0 {
            case.answered(session, 1);
        } else {
            case.join.left(session, Nanos(case.now));
        }
    }
    case.settle();
    let join = &case.join;
    assert!(join.asked.is_empty() && join.places.is_empty() && join.relayed.is_empty());
    assert!(join.by_key.is_empty() && join.queues.is_empty() && join.held == 0);
}
