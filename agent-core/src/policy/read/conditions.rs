//! `rate`, `unusual`, `schedule` and `until` -> conditions, each mistake in its place.

use saphyr::MarkedYaml;

use super::super::schedule::{self, DAYS, Schedule};
use super::super::{Amount, Exception, Per, Rate, Unusual, nearest};
use super::{Fields, Reader, field};

/// How long everything is usual where a rule does not say it: a week, with its working days and its weekend.
const LEARNING: u64 = 7 * 24 * 3600 * SECOND;
const SECOND: u64 = 1_000_000_000;
/// No limit is larger.
const MOST: u64 = 1 << 53;
/// More than this is a mistake, not a window.
const LONGEST: u64 = 366 * 24 * 3600 * SECOND;

impl Reader<'_> {
    /// `30s`, `10m`, `12h`, `7d` -> nanoseconds.
    pub(super) fn duration(&mut self, node: &MarkedYaml<'_>, what: &str) -> Option<u64> {
        let text = self.text(node, what)?;
        let (digits, unit) = text.split_at(text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len());
        let seconds = match unit {
            "s" => Some(1),
            "m" => Some(60),
            "h" => Some(3600),
            "d" => Some(24 * 3600),
            _ => None,
        };
        let time = digits.parse::<u32>().ok().zip(seconds).map(|(n, unit)| u64::from(n) * unit);
        let time = time.and_then(|seconds: u64| seconds.checked_mul(SECOND)).filter(|time| *time <= LONGEST);
        if time.is_none() {
            self.problem(
                node,
                format!("{what} cannot be '{text}'; write 30s, 30m, 12h or 1d, a year at most"),
            );
        }
        time
    }

    pub(super) fn rate<'y>(&mut self, node: &'y MarkedYaml<'y>) -> Option<Rate> {
        let what = "spec.match.rate";
        let fields = self.fields(node, what, &["statements", "rows", "within", "per"]);
        let per = self.per(&fields, what, &Per::ALL);
        let amounts = [("statements", Amount::Statements), ("rows", Amount::Rows)];
        let given: Vec<_> =
            amounts.iter().filter_map(|(name, of)| Some((*name, *of, field(&fields, name)?))).collect();
        let limit = if let [(name, of, node)] = given[..] {
            self.number(node, &format!("{what}.{name}")).map(|limit| (of, limit))
        } else {
            self.problem(node, format!("{what} counts either statements or rows: name one of them"));
            None
        };
        let within = if let Some(node) = field(&fields, "within") {
            let what = format!("{what}.within");
            self.duration(node, &what).filter(|within| {
                if *within == 0 {
                    self.problem(node, format!("{what} must be longer than nothing"));
                }
                *within > 0
            })
        } else {
            self.problem(node, format!("{what}.within is missing: write e.g. 'within: 10m'"));
            None
        };
        let ((of, limit), within) = limit.zip(within)?;
        Some(Rate { of, limit, within, per: per? })
    }

    pub(super) fn unusual<'y>(&mut self, node: &'y MarkedYaml<'y>) -> Option<Unusual> {
        let what = "spec.match.unusual";
        let fields = self.fields(node, what, &["first", "per", "learning"]);
        match field(&fields, "first") {
            Some(first) => {
                self.word(first, &format!("{what}.first"), &[("relation", ())]);
            }
            None => self.problem(node, format!("{what}.first is missing: write 'first: relation'")),
        }
        let per = self.per(&fields, what, &[("principal", Per::Principal), ("user", Per::User)]);
        let learning = match field(&fields, "learning") {
            Some(node) => self.duration(node, &format!("{what}.learning")),
            None => Some(LEARNING),
        };
        Some(Unusual { per: per?, learning: learning? })
    }

    fn per(&mut self, fields: &Fields<'_>, what: &str, known: &[(&str, Per)]) -> Option<Per> {
        match field(fields, "per") {
            Some(node) => self.word(node, &format!("{what}.per"), known),
            None => Some(Per::default()),
        }
    }

    fn number(&mut self, node: &MarkedYaml<'_>, what: &str) -> Option<u64> {
        let number = self.text(node, what)?.replace('_', "").parse::<u64>().ok();
        let number = number.filter(|n| (1..=MOST).contains(n));
        if number.is_none() {
            self.problem(node, format!("{what} must be a whole number, at least 1"));
        }
        number
    }

    pub(super) fn schedule<'y>(&mut self, node: &'y MarkedYaml<'y>, what: &str) -> Option<Schedule> {
        let before = self.problems.len();
        let fields = self.fields(node, what, &["days", "hours", "timezone", "holds"]);
        if !fields.iter().any(|(name, _)| name == "days" || name == "hours") && !fields.is_empty() {
            self.problem(node, format!("{what} says neither days nor hours: it would always hold"));
        }
        let mut days = 0;
        if let Some(node) = field(&fields, "days") {
            let what = format!("{what}.days");
            for item in self.list(node, &what) {
                let Some(text) = self.text(item, &what) else { continue };
                match schedule::days(&text) {
                    Some(more) => days |= more,
                    None if text.contains('-') => {
                        self.problem(item, format!("{what} cannot be '{text}'; write e.g. mon-fri"));
                    }
                    None => self.unknown(item, &format!("{what} cannot be"), &text, &DAYS),
                }
            }
        } else {
            days = 0b111_1111;
        }
        let mut hours = Vec::new();
        if let Some(node) = field(&fields, "hours") {
            let what = format!("{what}.hours");
            for item in self.list(node, &what) {
                let Some(text) = self.text(item, &what) else { continue };
                match schedule::hours(&text) {
                    Some(range) => hours.push(range),
                    None => self.problem(item, format!("{what} cannot be '{text}'; write e.g. 08:00-18:00")),
                }
            }
        }
        let zone = match field(&fields, "timezone") {
            None => Some(jiff::tz::TimeZone::UTC),
            Some(node) => self.text(node, &format!("{what}.timezone")).and_then(|name| {
                let zone = schedule::zone(&name);
                if zone.is_none() {
                    let zones = schedule::zones();
                    let known: Vec<&str> = zones.iter().map(String::as_str).collect();
                    let hint = match nearest(&name, &known) {
                        Some(near) => format!("did you mean '{near}'?"),
                        None => "write e.g. Europe/Berlin".to_owned(),
                    };
                    self.problem(node, format!("{what}.timezone cannot be '{name}'; {hint}"));
                }
                zone
            }),
        };
        let outside = match field(&fields, "holds") {
            None => Some(false),
            Some(node) => self.word(node, &format!("{what}.holds"), &[("inside", false), ("outside", true)]),
        };
        let schedule = Schedule::new(days, hours, zone?, outside?);
        (self.problems.len() == before).then_some(schedule)
    }

    pub(super) fn except<'y>(&mut self, node: &'y MarkedYaml<'y>) -> Exception {
        let (matching, more) = self.matching(node, "spec.except", &["schedule", "until"]);
        let mut except = Exception { matching, ..Exception::default() };
        for (name, node) in &more {
            if name == "schedule" {
                except.schedule = self.schedule(node, "spec.except.schedule");
            } else if let Some(text) = self.text(node, "spec.except.until") {
                except.until = schedule::instant(&text);
                if except.until.is_none() {
                    let says = format!("spec.except.until cannot be '{text}'");
                    self.problem(node, format!("{says}; write 2026-12-31 or 2026-12-31T18:00:00Z"));
                }
            }
        }
        if !says_something(node, &more) {
            self.problem(node, "an empty exception excepts everything: remove the policy instead".into());
        }
        except
    }
}

/// True where an exception says more than when it ends.
fn says_something(node: &MarkedYaml<'_>, more: &Fields<'_>) -> bool {
    let saphyr::YamlData::Mapping(mapping) = &node.data else { return true };
    let until = more.iter().filter(|(name, _)| name == "until").count();
    mapping.len() > until
}
