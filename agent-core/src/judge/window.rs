//! Amounts with their times -> is the limit reached. Bounded: only what can still make a difference is kept.

use std::collections::VecDeque;

use crate::policy::Rate;

/// Most entries of one window. Up to this limit each has its own time; beyond, those of a moment share one, and the
/// window may reach that moment further back: within / 1024.
const MOST: u64 = 1024;

/// What happened lately.
#[derive(Debug, Default)]
pub(super) struct Window {
    entries: VecDeque<(u64, u64)>,
    sum: u64,
}

impl Window {
    /// Notes an amount, 0 for none, and says whether the limit is reached.
    pub(super) fn add(&mut self, rate: &Rate, time: u64, amount: u64) -> bool {
        // What is told late is as new as what was told before it.
        let time = self.entries.back().map_or(time, |(newest, _)| time.max(*newest));
        while let Some(&(old, gone)) = self.entries.front()
            && time - old >= rate.within
        {
            self.sum -= gone;
            self.entries.pop_front();
        }
        if amount > 0 {
            let moment = if rate.limit > MOST { rate.within / MOST } else { 0 };
            // More than the limit makes no difference, and cannot overflow.
            let amount = amount.min(rate.limit);
            match self.entries.back_mut() {
                Some((at, sum)) if *at == time || moment > 0 && *at / moment == time / moment => {
                    let more = amount.min(rate.limit - *sum);
                    *at = time;
                    *sum += more;
                    self.sum += more;
                }
                _ => {
                    self.entries.push_back((time, amount));
                    self.sum += amount;
                }
            }
            // With or without the oldest the limit is reached, and it goes first.
            while let Some(&(_, oldest)) = self.entries.front()
                && self.sum - oldest >= rate.limit
            {
                self.sum -= oldest;
                self.entries.pop_front();
            }
        }
        self.sum >= rate.limit
    }

    /// How many entries it holds.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::{Amount, Per};

    fn rate(limit: u64, within: u64) -> Rate {
        Rate { of: Amount::Rows, limit, within, per: Per::Principal }
    }

    #[test]
    fn exact_at_the_limit_and_at_the_window_s_end() {
        let rate = rate(3, 100);
        let mut window = Window::default();
        for (time, reached) in [(0, false), (10, false), (99, true), (100, true), (110, true), (210, false)] {
            assert_eq!(window.add(&rate, time, 1), reached, "{time}");
        }
        // Asking counts nothing.
        assert!(!window.add(&rate, 211, 0));
        assert!(!window.add(&rate, 310, 2) && window.add(&rate, 310, u64::MAX));
    }

    proptest! {
        /// The oracle adds up everything that happened in the window.
        #[test]
        fn agrees_with_adding_up(
            limit in 1u64..60,
            within in 1u64..50,
            steps in prop::collection::vec((0u64..10, 0u64..9), 1..300),
        ) {
            let rate = rate(limit, within);
            let (mut window, mut all, mut time) = (Window::default(), Vec::new(), 0);
            for (pause, amount) in steps {
                time += pause;
                all.push((time, amount));
                let sum: u64 = all.iter().filter(|(at, _)| time - at < within).map(|(_, n)| n).sum();
                prop_assert_eq!(window.add(&rate, time, amount), sum >= limit);
                prop_assert!(window.len() as u64 <= limit);
            }
        }

    }

    /// A large limit: bounded, never missed, and never reached by more than the window and a moment hold.
    #[test]
    fn large_limits_are_bounded() {
        let within = 1 << 20;
        for (limit, seed) in [(2_000, 7), (3_000, 331), (5_000, 1_013)] {
            let rate = rate(limit, within);
            let (mut window, mut time) = (Window::default(), 0u64);
            let (mut exact, mut most) = (VecDeque::new(), VecDeque::new());
            let mut reached_once = false;
            for n in 0..20_000u64 {
                time += (n * seed) % 331;
                for (all, length) in [(&mut exact, within), (&mut most, within + within / MOST)] {
                    all.push_back(time);
                    while all.front().is_some_and(|at| time - at >= length) {
                        all.pop_front();
                    }
                }
                let reached = window.add(&rate, time, 1);
                reached_once |= reached;
                assert!(reached || (exact.len() as u64) < limit, "missed at {n}");
                assert!(!reached || most.len() as u64 >= limit, "too early at {n}");
                assert!(window.len() as u64 <= MOST + 2);
            }
            assert!(reached_once);
        }
    }
}
