//! Statements, one after the other, and rules about how often and whether for the first time -> who is stopped when.

use super::*;
use crate::judge::{Verdict, judge};
use crate::policy::Source;
use crate::sql::{Dialect, analyze};

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 24 * 3600 * SECOND;

/// Rules and what was seen so far.
struct World {
    policies: Policies,
    memory: Memory,
}

/// Who asks, and when.
#[derive(Clone, Copy)]
struct Ask<'a> {
    who: &'a str,
    session: u64,
    time: u64,
}

const JOE: Ask<'static> = Ask { who: "joe", session: 1, time: 0 };

impl World {
    fn new(matching: &str, action: &str, more: &str) -> Self {
        let text = format!(
            "kind: DatabasePolicy\nmetadata: {{name: r}}\nspec:\n  mode: enforce\n  match: {matching}\n  action: {action}\n{more}"
        );
        let policies =
            Policies::load(&[Source { file: "r", text: &text }]).unwrap_or_else(|p| panic!("{p:#?}"));
        Self { policies, memory: Memory::default() }
    }

    /// What becomes of a statement when it is asked for and when it is answered with so many rows.
    fn run(&mut self, ask: Ask<'_>, sql: &str, rows: u64) -> [Verdict; 2] {
        let analysis = analyze(Dialect::Postgresql, sql.as_bytes());
        let subject = Subject {
            db_system_name: "postgresql",
            db_user: "app",
            identity_principal: ask.who,
            session_id: ask.session,
            time: ask.time,
            process: Some((ask.session as u32, 7)),
            ..Subject::new(&analysis)
        };
        let mut at = |look| {
            let held = self.memory.look(&self.policies, &subject, look);
            judge(&self.policies, &Subject { held: &held, ..subject })
        };
        let asked = at(Look::Request);
        let answered = at(Look::Answer { before: &[], rows });
        if asked.action <= crate::policy::Action::Alert {
            self.memory.learn(&self.policies, &subject);
        }
        [asked, answered]
    }

    /// Whether the rule speaks at the request.
    fn speaks(&mut self, ask: Ask<'_>, sql: &str) -> bool {
        !self.run(ask, sql, 0)[0].policy_rule.is_empty()
    }
}

#[test]
fn the_third_statement_within_a_minute_and_not_the_second() {
    let mut world =
        World::new("{statement: {effects: [delete]}, rate: {statements: 3, within: 1m}}", "kill", "");
    let sql = "DELETE FROM t WHERE id = 1";
    let at = |seconds| Ask { time: seconds * SECOND, ..JOE };
    assert!(!world.speaks(at(0), sql) && !world.speaks(at(30), sql));
    // What the rule is not about does not count; nor does somebody else.
    assert!(!world.speaks(at(31), "SELECT 1") && !world.speaks(Ask { who: "ann", ..at(32) }, sql));
    assert!(world.speaks(at(59), sql));
    // The window slides: the first is out of it, the third still is in.
    assert!(world.speaks(at(60), sql));
    assert!(!world.speaks(at(179), sql));
}

#[test]
fn each_for_itself() {
    for (per, ask) in [
        ("session", Ask { session: 2, ..JOE }),
        ("process", Ask { session: 2, ..JOE }),
        ("principal", Ask { who: "ann", ..JOE }),
    ] {
        let mut world =
            World::new(&format!("{{rate: {{statements: 2, within: 1h, per: {per}}}}}"), "kill", "");
        assert!(!world.speaks(JOE, "SELECT 1") && !world.speaks(ask, "SELECT 1"), "{per}");
        assert!(world.speaks(JOE, "SELECT 1"), "{per}");
    }
    let mut world = World::new("{rate: {statements: 2, within: 1h, per: user}}", "kill", "");
    assert!(
        !world.speaks(JOE, "SELECT 1") && world.speaks(Ask { who: "ann", session: 2, ..JOE }, "SELECT 1")
    );
}

#[test]
fn rows_count_when_they_are_known() {
    let mut world = World::new("{relations: [customers], rate: {rows: 100, within: 1h}}", "kill", "");
    let sql = "SELECT * FROM customers";
    let [asked, answered] = world.run(JOE, sql, 99);
    assert!(!asked.kills() && !answered.kills());
    let [asked, answered] = world.run(JOE, sql, 1);
    assert!(!asked.kills() && answered.kills(), "the hundredth row");
    // From now on nothing more is let through, until rows leave the window.
    assert!(world.run(JOE, sql, 0)[0].kills());
    assert!(!world.run(JOE, "SELECT * FROM other", 1000)[1].kills());
    assert!(!world.run(Ask { time: 3600 * SECOND, ..JOE }, sql, 99)[1].kills());
}

#[test]
fn what_may_fall_under_a_rate_counts_in_doubt_only() {
    let matching = "{statement: {effects: [delete]}, rate: {statements: 2, within: 1h}}";
    let mut world = World::new(matching, "kill", "  onUnknown: alert\n");
    let [first, _] = world.run(JOE, "CALL f()", 0);
    assert!(first.policy_rule.is_empty());
    let [second, _] = world.run(JOE, "CALL f()", 0);
    assert!(second.unknown && !second.kills(), "two that may have deleted");
    assert!(!world.run(JOE, "DELETE FROM t", 0)[0].kills(), "one that did");
    assert!(world.run(JOE, "DELETE FROM t", 0)[0].kills());
}

#[test]
fn the_first_touch_is_told_once_after_everything_was_usual_for_a_while() {
    let mut world = World::new("{unusual: {first: relation, learning: 7d}}", "alert", "  onUnknown: alert\n");
    let on = |day: u64| Ask { time: (20_000 + day) * DAY, ..JOE };
    assert!(!world.speaks(on(0), "SELECT * FROM orders"), "learning");
    assert!(!world.speaks(on(6), "SELECT * FROM orders JOIN items USING (id)"));
    assert!(!world.speaks(on(7), "SELECT * FROM public.items"), "learned, by another name of it");
    assert!(world.speaks(on(7), "SELECT * FROM orders, salaries"));
    assert!(!world.speaks(on(8), "SELECT * FROM salaries"), "told once");
    assert!(world.speaks(Ask { who: "ann", ..on(8) }, "SELECT * FROM salaries"), "somebody else");
    // What is not understood stands for itself.
    assert!(world.speaks(on(9), "CALL cleanup()") && !world.speaks(on(9), "CALL cleanup()"));
    assert!(world.speaks(on(9), "CALL other()"));
    // The learning begins with the rule, not with the first statement that it is about.
    let mut world = World::new("{relations: [vault], unusual: {first: relation, learning: 1d}}", "alert", "");
    assert!(!world.speaks(on(0), "SELECT 1"));
    assert!(world.speaks(on(2), "SELECT * FROM vault"));
    assert!(!world.speaks(on(2), "SELECT * FROM elsewhere"));
}

#[test]
fn what_is_stopped_does_not_become_usual() {
    let mut world = World::new("{unusual: {first: relation, learning: 0s}}", "kill", "  onUnknown: allow\n");
    assert!(world.speaks(JOE, "SELECT * FROM salaries"));
    assert!(world.speaks(JOE, "SELECT * FROM salaries"), "a second try is no habit");
}

#[test]
fn the_memory_outlives_the_agent() {
    let rule = || World::new("{unusual: {first: relation, learning: 7d}}", "alert", "");
    let on = |day: u64| Ask { time: (20_000 + day) * DAY, ..JOE };
    let mut world = rule();
    assert!(!world.speaks(on(0), "SELECT * FROM orders"));
    let written = world.memory.fresh();
    assert_eq!(written.len(), 2, "{written:?}");
    assert!(world.memory.fresh().is_empty());
    assert_eq!(world.memory.lines().collect::<Vec<_>>(), written);
    let mut next = rule();
    assert!(written.iter().all(|line| next.memory.read(line)));
    assert!(!next.memory.read("{\"per\":\"princ") && !next.memory.read("{\"per\":\"planet\"}"));
    assert!(!next.speaks(on(7), "SELECT * FROM orders"), "known from before");
    assert!(next.speaks(on(7), "SELECT * FROM items"), "and the learning is over");
}

#[test]
fn the_memory_is_bounded() {
    let mut world = World::new("{rate: {statements: 3, within: 1h}}", "kill", "");
    for n in 0..WINDOWS.get() + 10 {
        assert!(!world.speaks(Ask { who: &n.to_string(), ..JOE }, "SELECT 1"));
    }
    let (_, forgotten) = world.memory.size();
    assert_eq!(forgotten, 10);
}

#[test]
fn schedules_and_exceptions_that_end() {
    let at = |time: &str| Ask { time: crate::event::parse_rfc3339(time).unwrap(), ..JOE };
    let mut world = World::new(
        "{statement: {effects: [delete]}}",
        "kill",
        concat!(
            "  schedule: {days: [mon-fri], hours: [\"08:00-18:00\"], timezone: Europe/Berlin, holds: outside}\n",
            "  except:\n",
            "    - {actor: {principal: [joe]}, until: 2026-11-22}\n",
            "    - {actor: {principal: [ann]}, schedule: {hours: [\"22:00-23:00\"]}}\n",
        ),
    );
    let sql = "DELETE FROM t";
    assert!(!world.speaks(at("2026-11-20T07:00:00Z"), sql), "within working hours");
    assert!(world.speaks(Ask { who: "eve", ..at("2026-11-20T06:59:00Z") }, sql));
    assert!(!world.speaks(at("2026-11-22T23:59:59Z"), sql), "excepted until the day's end");
    assert!(world.speaks(at("2026-11-23T00:00:00Z"), sql), "and no longer");
    assert!(!world.speaks(Ask { who: "ann", ..at("2026-11-22T22:30:00Z") }, sql));
    assert!(world.speaks(Ask { who: "ann", ..at("2026-11-22T23:30:00Z") }, sql));
}

/// A statement that falls under a rule only by the data in its answer counts once it is answered.
#[test]
fn data_in_the_answer_counts_at_the_answer() {
    let mut world = World::new("{data: {classes: [card]}, rate: {statements: 2, within: 1h}}", "kill", "");
    let analysis = analyze(Dialect::Postgresql, b"SELECT * FROM pay");
    let card = [DataClass { class: "card".into(), column: "pay.pan".into() }];
    let subject = Subject { identity_principal: "joe", ..Subject::new(&analysis) };
    for kills in [false, true, true] {
        let held = world.memory.look(&world.policies, &subject, Look::Request);
        assert!(!judge(&world.policies, &Subject { held: &held, ..subject }).kills());
        let answered = Subject { data_classes: &card, ..subject };
        let held = world.memory.look(&world.policies, &answered, Look::Answer { before: &[], rows: 1 });
        assert_eq!(judge(&world.policies, &Subject { held: &held, ..answered }).kills(), kills);
    }
}
