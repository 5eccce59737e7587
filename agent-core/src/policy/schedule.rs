//! Time -> does a rule hold: days and hours of a week in a time zone. The zones are built in: no file is read.

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// Days and hours, and whether a rule holds in them or outside of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// By bit, from Monday.
    days: u8,
    /// Minutes of the day, the end not included. One that ends before it begins goes on after midnight, and belongs to
    /// the day on which it began.
    hours: Vec<(u16, u16)>,
    zone: TimeZone,
    outside: bool,
}

/// Names of days, from Monday.
pub(super) const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Schedule {
    /// `days`: bits from Monday. `hours`: empty for the whole day.
    pub(super) fn new(days: u8, hours: Vec<(u16, u16)>, zone: TimeZone, outside: bool) -> Self {
        let hours = if hours.is_empty() { vec![(0, DAY)] } else { hours };
        Self { days, hours, zone, outside }
    }

    /// True where a rule with this schedule holds at a time, in nanoseconds since the epoch.
    pub fn holds(&self, time: u64) -> bool {
        let Ok(time) = Timestamp::from_nanosecond(i128::from(time)) else { return true };
        let local = self.zone.to_datetime(time);
        let day = local.weekday().to_monday_zero_offset().unsigned_abs();
        let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        let on = |day: u8| self.days & 1 << (day % 7) != 0;
        let inside = self.hours.iter().any(|&(from, to)| {
            if from < to {
                on(day) && (from..to).contains(&minute)
            } else {
                on(day) && minute >= from || on(day + 6) && minute < to
            }
        });
        inside != self.outside
    }
}

/// `mon`, `monday` or `mon-fri` -> bits; none where it is neither.
pub(super) fn days(text: &str) -> Option<u8> {
    let day = |name: &str| {
        let name = name.trim().to_ascii_lowercase();
        let full = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
        (0u8..)
            .zip(DAYS)
            .zip(full)
            .find(|((_, short), long)| name == *short || name == *long)
            .map(|((n, _), _)| n)
    };
    match text.split_once('-') {
        None => Some(1 << day(text)?),
        Some((from, to)) => {
            let (from, to) = (day(from)?, day(to)?);
            // `sat-mon` goes over the end of the week.
            let length = (to + 7 - from) % 7;
            Some((0..=length).fold(0, |days, n| days | 1 << ((from + n) % 7)))
        }
    }
}

/// `08:00-18:00` -> minutes; none where it is no such thing.
pub(super) fn hours(text: &str) -> Option<(u16, u16)> {
    let minute = |text: &str| {
        let (hour, minute) = text.trim().split_once(':')?;
        let two = |text: &str| (text.len() == 2).then(|| text.parse::<u16>().ok()).flatten();
        let (hour, minute) = (two(hour)?, two(minute)?);
        (hour < 24 && minute < 60 || (hour, minute) == (24, 0)).then_some(hour * 60 + minute)
    };
    let (from, to) = text.split_once('-')?;
    let (from, to) = (minute(from)?, minute(to)?);
    (from != to && from != DAY).then_some((from, to))
}

/// `Europe/Berlin` -> the zone.
pub(super) fn zone(name: &str) -> Option<TimeZone> {
    if name == "UTC" {
        return Some(TimeZone::UTC);
    }
    TimeZoneDatabase::bundled().get(name).ok()
}

/// All names of zones.
pub(super) fn zones() -> Vec<String> {
    TimeZoneDatabase::bundled().available().map(|name| name.as_str().to_owned()).collect()
}

/// `2026-12-31` (its end, UTC) or `2026-12-31T18:00:00+01:00` -> nanoseconds since the epoch.
pub(super) fn instant(text: &str) -> Option<u64> {
    let instant = if let Ok(instant) = text.parse::<Timestamp>() {
        instant
    } else {
        let date: jiff::civil::Date = text.parse().ok()?;
        date.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp()
    };
    u64::try_from(instant.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> u64 {
        instant(text).unwrap()
    }

    fn schedule(day: &str, hour: &[&str], zone_name: &str) -> Schedule {
        let hours = hour.iter().map(|h| hours(h).unwrap()).collect();
        Schedule::new(days(day).unwrap(), hours, zone(zone_name).unwrap(), false)
    }

    #[test]
    fn working_hours_follow_the_wall_clock_through_daylight_saving() {
        let work = schedule("mon-fri", &["08:00-18:00"], "Europe/Berlin");
        // 2026-03-27 is a Friday; on the 29th the clocks go forward.
        for (time, holds) in [
            ("2026-03-27T06:59:59Z", false),
            ("2026-03-27T07:00:00Z", true),
            ("2026-03-27T16:59:59Z", true),
            ("2026-03-27T17:00:00Z", false),
            ("2026-03-28T10:00:00Z", false),
            ("2026-03-30T05:59:59Z", false),
            ("2026-03-30T06:00:00Z", true),
            ("2026-03-30T16:00:00Z", false),
        ] {
            assert_eq!(work.holds(at(time)), holds, "{time}");
            let outside = Schedule { outside: true, ..work.clone() };
            assert_eq!(outside.holds(at(time)), !holds, "outside {time}");
        }
    }

    #[test]
    fn a_night_belongs_to_the_day_it_began_on() {
        let night = schedule("fri", &["22:00-06:00"], "UTC");
        for (time, holds) in [
            ("2026-11-20T21:59:00Z", false),
            ("2026-11-20T22:00:00Z", true),
            ("2026-11-21T05:59:59Z", true),
            ("2026-11-21T06:00:00Z", false),
            ("2026-11-20T05:00:00Z", false),
            ("2026-11-21T23:00:00Z", false),
        ] {
            assert_eq!(night.holds(at(time)), holds, "{time}");
        }
        let all = schedule("sat-mon", &[], "Asia/Tokyo");
        assert!(all.holds(at("2026-11-20T15:00:00Z")) && !all.holds(at("2026-11-20T14:59:59Z")));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in ["8-18", "08:00", "25:00-26:00", "08:60-09:00", "08:00-08:00", "24:00-08:00", "8:00-9:00"]
        {
            assert_eq!(hours(text), None, "{text}");
        }
        assert_eq!(hours("18:00-24:00"), Some((1080, 1440)));
        for text in ["", "mo", "mon-", "-fri", "mon-fry"] {
            assert_eq!(days(text), None, "{text}");
        }
        assert_eq!(days("Mon-Wed"), Some(0b111));
        assert_eq!(days("sun-mon"), Some(0b100_0001));
        assert_eq!(zone("Europe/Berln"), None);
        assert_eq!(instant("2026-12-31"), instant("2027-01-01T01:00:00+01:00"));
        assert_eq!(instant("soon"), None);
    }
}
